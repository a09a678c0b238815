"""Text of the Python standard library, and digits: the same on every machine."""
