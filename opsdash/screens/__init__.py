"""One pane, one file."""
