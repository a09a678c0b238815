"""What a run leaves on disk: names, types, readers and verification; no torch."""
