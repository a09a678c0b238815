"""Which panes there are, in the order of their keys.

A pane's module is loaded when the pane is first looked at, or when nothing else
is to be done: the first picture needs one of them.
"""

from functools import cached_property
from importlib import import_module

from opsdash.screens.pane import Pane


class PaneEntry:
    """One pane, by its title; it lies in the module of that name."""

    def __init__(self, title: str) -> None:
        self.title = title

    @property
    def is_loaded(self) -> bool:
        """Whether its class can be had at no cost."""
        return "pane_class" in vars(self)

    @cached_property
    def pane_class(self) -> type[Pane]:
        """Its class; the module is loaded for it."""
        module = import_module(f"opsdash.screens.{self.title}")
        found: type[Pane] = getattr(module, f"{self.title.capitalize()}Pane")
        return found


PANES = tuple(
    PaneEntry(title)
    for title in (
        "overview",
        "barriers",
        "checkpoints",
        "optimizer",
        "chunks",
        "rounds",
        "events",
    )
)
CHECKPOINTS, CHUNKS, EVENTS = 2, 4, 6
"""Where these panes are in `PANES`."""
