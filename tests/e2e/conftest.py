"""Fixtures that start real trainers."""

from tests.processes import launch, small_disk, start

__all__ = ["launch", "small_disk", "start"]
