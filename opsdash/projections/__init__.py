"""Pure folds from events to what a pane shows: no Textual, no clock, no files."""
