"""Fixtures that start real trainers."""

from tests.processes import launch, start

__all__ = ["launch", "start"]
