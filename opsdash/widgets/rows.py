"""What a table shows: columns, cells and the model that yields them.

Pure. A table asks its model for the rows on the screen and for nothing else,
so a model may stand for a million rows that exist nowhere; a short list that
does exist is a `FixedRows`.
"""

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable


class Cell(NamedTuple):
    """What one column shows of one row."""

    text: str
    tone: str = ""
    """`ok`, `warn`, `bad`, `dim`, `accent` or `strong`."""


@dataclass(frozen=True)
class Column:
    """How one column is set."""

    title: str
    width: int
    """Cells; with `flex`, the least."""
    align_right: bool = False
    flex: int = 0
    """Share of the room that is left over; 0 keeps the width."""
    key: str = ""
    """What `SortRequested` names; the title if empty."""
    sortable: bool = True

    @property
    def name(self) -> str:
        """What `SortRequested` names."""
        return self.key or self.title


class RowModel(Protocol):
    """Rows by position, each with a key that stays when positions change."""

    def __len__(self) -> int:
        """Return the number of rows."""

    def row(self, index: int) -> Sequence[Cell]:
        """Return the cells of a row, one per column; missing ones are blank."""

    def key(self, index: int) -> Hashable:
        """Return what identifies the row."""


@runtime_checkable
class FindsRows(Protocol):
    """A model that knows where a key is; without it the table looks nearby."""

    def find(self, key: Hashable) -> int | None:
        """Return the position of the row with `key`, or None."""


class FixedRows:
    """Rows that are all there, in the order given."""

    def __init__(self, rows: Iterable[tuple[Hashable, Sequence[Cell]]] = ()) -> None:
        self._rows = tuple(rows)
        self._places = {key: index for index, (key, _) in enumerate(self._rows)}

    def __len__(self) -> int:
        return len(self._rows)

    def row(self, index: int) -> Sequence[Cell]:
        """Return the cells of a row."""
        return self._rows[index][1]

    def key(self, index: int) -> Hashable:
        """Return what identifies the row."""
        return self._rows[index][0]

    def find(self, key: Hashable) -> int | None:
        """Return the position of the row with `key`, or None."""
        return self._places.get(key)


def widths(columns: Sequence[Column], room: int) -> list[int]:
    """Return the width of each column in `room` cells, one cell between them.

    What is left over goes to flexible columns by their share. If there is too
    little room the widths are the given ones, and the table scrolls sideways.
    """
    least = [column.width for column in columns]
    left = room - sum(least) - max(0, len(columns) - 1)
    shares = sum(column.flex for column in columns)
    if left <= 0 or not shares:
        return least
    result, given = [], 0
    passed = 0
    for column in columns:
        passed += column.flex
        upto = left * passed // shares
        result.append(column.width + upto - given)
        given = upto
    return result


def next_order(columns: Sequence[Column], now: str | None) -> str | None:
    """Return the sortable column after `now`; None if there is none at all."""
    names = [column.name for column in columns if column.sortable]
    place = names.index(now) + 1 if now in names else 0
    return names[place % len(names)] if names else None


def place_near(
    model: RowModel, key: Hashable, index: int, reach: int = 4096
) -> int | None:
    """Return where the row with `key` is now; None if it is gone or far away.

    A model that can find rows is asked; otherwise up to `reach` rows on both
    sides of `index`, where the row was, are looked at.
    """
    if isinstance(model, FindsRows):
        return model.find(key)
    length = len(model)
    for distance in range(reach + 1):
        for place in {index - distance, index + distance}:
            if 0 <= place < length and model.key(place) == key:
                return place
        if index - distance < 0 and index + distance >= length:
            return None
    return None
