"""Columns of whole numbers: as narrow as what they hold, or read as ranks."""

from array import array
from collections.abc import Sequence


def appended(column: "array[int]", value: int) -> "array[int]":
    """Return the column with one value more; it is another one if it had to widen.

    What a run writes fits four bytes; what somebody else left there may not.

    Args:
        column: Of a type that holds integers, at most `q`.
        value: Of at most 64 bits.
    """
    try:
        column.append(value)
    except OverflowError:
        column = array("q", column)
        column.append(value)
    return column


class Ranked(Sequence[int]):
    """Ids as the places of their names among all names: names sort as numbers."""

    def __init__(self, ids: "array[int]", places: list[int]) -> None:
        """Read `ids` through `places`, which has one place for every id."""
        self._ids, self._places = ids, places

    def __len__(self) -> int:
        return len(self._ids)

    def __getitem__(self, index: int) -> int:  # type: ignore[override]  # no slices
        return self._places[self._ids[index]]
