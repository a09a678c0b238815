"""Watch a run directory from a terminal, and act on it."""
