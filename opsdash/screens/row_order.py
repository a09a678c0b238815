"""Put many rows in another order, in a thread, a slice at a time.

One call of `sorted` over a million rows does not give the interpreter up for half
a second, in whatever thread it runs. Here the keys are sorted digit by digit: a
loop that makes room for keys and frames like any other.
"""

import threading
import time
from array import array
from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypeAlias

Numbers: TypeAlias = "Sequence[int] | array[int]"
_BITS = 16
_MASK = (1 << _BITS) - 1
_SLICE = 10_000
_PAUSE_S = 0.001


class Order(NamedTuple):
    """Which row is where, both ways."""

    ids: "array[int]"
    """Of the rows, from the top."""
    places: "array[int]"
    """Where each id from `first` on is; -1: it is not shown."""
    first: int

    def find(self, row_id: int) -> int | None:
        """Return where a row is; None: it is not shown."""
        index = row_id - self.first
        place = self.places[index] if 0 <= index < len(self.places) else -1
        return place if place >= 0 else None


class RowOrder:
    """One order that is being made."""

    def __init__(
        self, ids: Numbers, keys: Numbers, *, is_descending: bool, first: int = 0
    ) -> None:
        """Begin.

        Args:
            ids: Of the rows that are shown; those with equal keys stay like this.
            keys: Of all rows, none negative. Neither changes while this goes on.
            is_descending: Greatest key first.
            first: The id that the first of the keys belongs to.
        """
        self._ids, self._keys, self._first = ids, keys, first
        self._is_descending = is_descending
        self._order: Order | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(
            target=self._run, name="opsdash-order", daemon=True
        )
        self._thread.start()

    def take(self) -> Order | None:
        """Return the order; None: it is still being made."""
        return self._order

    def stop(self) -> None:
        """Give up."""
        self._stopping.set()

    def _run(self) -> None:
        ids, first, shift, top = self._ids, self._first, 0, 0
        while shift == 0 or top >> shift:
            groups: dict[int, array[int]] = {}
            for part in self._slices(ids):
                for row_id in part:
                    key = self._keys[row_id - first]
                    top = max(top, key)
                    digit = key >> shift & _MASK
                    if digit not in groups:
                        groups[digit] = array("q")
                    groups[digit].append(row_id)
            ids = array("q")
            for digit in sorted(groups, reverse=self._is_descending):
                ids.extend(groups[digit])
            shift += _BITS
        places, place = array("q", [-1]) * len(self._keys), 0
        for part in self._slices(ids):
            for row_id in part:
                places[row_id - first] = place
                place += 1
        if not self._stopping.is_set():
            self._order = Order(array("q", ids), places, first)

    def _slices(self, ids: Numbers) -> Iterator[Numbers]:
        """Yield parts of some ids, and let others have their turn in between."""
        for start in range(0, len(ids), _SLICE):
            if self._stopping.is_set():
                return
            yield ids[start : start + _SLICE]
            time.sleep(_PAUSE_S)
