"""The chunk store's format and its reader: one SQLite database per node."""
