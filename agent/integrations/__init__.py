"""Callbacks for other trainers; each is imported only by who uses it."""
