"""The order in which chunks stand until another is wanted: bad ones in front.

All others keep the order of their ids, so that no list of a million ids is held
only to say that.
"""

from bisect import bisect_left, insort


class BadFirst:
    """Ids from 0 on, of which some are found to be bad one after the other."""

    def __init__(self, length: int) -> None:
        """Begin with none bad; `length` ids are there, and those below it."""
        self._length = length
        self._bad: list[int] = []

    @property
    def bad(self) -> tuple[int, ...]:
        """The bad ones, ascending."""
        return tuple(self._bad)

    @property
    def num_bad(self) -> int:
        """How many stand in front."""
        return len(self._bad)

    def add(self, chunk_id: int) -> None:
        """Put one in front that was not there."""
        insort(self._bad, chunk_id)

    def id_at(self, index: int) -> int:
        """Return which id stands in a place."""
        if index < len(self._bad):
            return self._bad[index]
        wanted, low, high = index - len(self._bad), 0, len(self._bad)
        while low < high:  # how many bad ones have smaller ids than it
            middle = (low + high) // 2
            if self._bad[middle] - middle <= wanted:
                low = middle + 1
            else:
                high = middle
        return wanted + low

    def find(self, chunk_id: int) -> int | None:
        """Return where an id stands; None: it is none of them."""
        place = bisect_left(self._bad, chunk_id)
        if place < len(self._bad) and self._bad[place] == chunk_id:
            return place
        is_there = 0 <= chunk_id < self._length
        return len(self._bad) + chunk_id - place if is_there else None
