"""Say whether a checkpoint still holds the bytes that were saved; no torch."""
