"""What `opsdash COMMAND` does, one module per group of commands."""
