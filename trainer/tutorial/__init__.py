"""AdamW, SGD and a training loop from scratch, to read."""
