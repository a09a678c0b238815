"""Turn changes of a run directory's files into frozen batches."""
