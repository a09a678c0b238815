"""What `python -m trainer` can be asked to do, one command a file."""
