"""Put the chunks of a round in another order, in a thread, a slice at a time.

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
    """Which chunk is in which row, both ways."""

    ids: "array[int]"
    """By row."""
    rows: "array[int]"
    """By chunk; -1: it is in none."""


class ChunkOrder:
    """One order that is being made."""

    def __init__(
        self, ids: Numbers, keys: Numbers, num_all: int, *, is_descending: bool
    ) -> None:
        """Begin.

        Args:
            ids: Of the chunks that are shown; those with equal keys stay like this.
            keys: By id, none negative. Neither changes while this goes on.
            num_all: Chunks in all: each id is less.
            is_descending: Greatest key first.
        """
        self._ids, self._keys, self._num_all = ids, keys, num_all
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
        ids, shift, top = self._ids, 0, 0
        while shift == 0 or top >> shift:
            groups: dict[int, array[int]] = {}
            for part in self._slices(ids):
                for chunk_id in part:
                    key = self._keys[chunk_id]
                    top = max(top, key)
                    digit = key >> shift & _MASK
                    if digit not in groups:
                        groups[digit] = array("q")
                    groups[digit].append(chunk_id)
            ids = array("q")
            for digit in sorted(groups, reverse=self._is_descending):
                ids.extend(groups[digit])
            shift += _BITS
        rows, row = array("q", [-1]) * self._num_all, 0
        for part in self._slices(ids):
            for chunk_id in part:
                rows[chunk_id] = row
                row += 1
        if not self._stopping.is_set():
            self._order = Order(array("q", ids), rows)

    def _slices(self, ids: Numbers) -> Iterator[Numbers]:
        """Yield parts of some ids, and let others have their turn in between."""
        for start in range(0, len(ids), _SLICE):
            if self._stopping.is_set():
                return
            yield ids[start : start + _SLICE]
            time.sleep(_PAUSE_S)
