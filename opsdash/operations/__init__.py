"""Plan and run what an operator does to a run."""
