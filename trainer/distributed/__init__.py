"""Join and leave a process group, named barriers, verdicts over all ranks."""
