"""Sensors: each watches one thing in the training process."""
