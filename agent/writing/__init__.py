"""How an agent's lines reach the disk; readers know nothing of it."""
