"""The chunked model store: one SQLite database per node."""
