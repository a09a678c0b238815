"""Whose lines count: those of the newest attempt's processes.

State of who waits and who hangs means nothing once another attempt has begun.
"""

from collections.abc import MutableMapping, MutableSet
from typing import Any, TypeAlias

from opsdash.projections.batch import Origin
from opsdash.projections.plausible import MAX_NODES

_State: TypeAlias = MutableMapping[str, Any] | MutableSet[str]


class NewestAttempt:
    """The newest attempt, its processes, and what is to be forgotten with it."""

    def __init__(self, *states: _State) -> None:
        """Know none yet.

        Args:
            states: What is kept of processes, by stem; cleared by a newer attempt.
        """
        self.ranks: dict[str, int | None] = {}
        """By stem of each process that was heard; None: it is no rank."""
        self._number = 0
        self._states = states

    def begin(self, number: int) -> None:
        """Take in that an attempt exists; a newer one clears all."""
        if number > self._number:
            self._number = number
            self.ranks.clear()
            for state in self._states:
                state.clear()

    def admits(self, origin: Origin) -> bool:
        """Whether a line belongs to it; the first of a newer one begins that."""
        self.begin(origin.attempt)
        if origin.attempt < self._number:
            return False
        if origin.stem not in self.ranks:
            if len(self.ranks) >= MAX_NODES:
                return False
            self.ranks[origin.stem] = origin.rank
        return True
