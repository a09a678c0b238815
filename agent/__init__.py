"""Observe a training run from inside it, and define what it leaves on disk."""
