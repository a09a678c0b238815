"""Widgets take data in and post messages out; they read no files."""
