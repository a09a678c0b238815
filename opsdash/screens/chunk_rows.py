"""The chunks of one round as rows: a million of them at the cost of a page.

Rows in sight are read beside the screen when they are first drawn. A scan of all
finds missing and damaged chunks, which come first, and what a filter lets
through; until it has passed a row, the row is where its id puts it. What digests
and names are ordered by is kept only once somebody wants that, by another scan.
"""

from array import array
from bisect import bisect_left
from collections.abc import Collection, Hashable, Iterable, Sequence
from pathlib import Path

from agent.rundir.chunks.records import ChunkRow, RoundRow
from opsdash import units
from opsdash.operations.chunk_scan import ChunkScan, ScannedChunk
from opsdash.projections.match import Matcher, matcher
from opsdash.screens.bad_first import BadFirst
from opsdash.screens.chunk_keys import ChunkKeys
from opsdash.screens.chunk_pages import ChunkPages
from opsdash.screens.row_order import Numbers, Order, RowOrder
from opsdash.widgets.patience import OutOfPatienceError, patience
from opsdash.widgets.rows import Cell, Column

COLUMNS = (
    Column("chunk", 9, align_right=True),
    Column("size", 9, align_right=True),
    Column("shared", 7, align_right=True),
    Column("state", 9),
    Column("digest", 12),
    Column("holds", 16, flex=1),
)
_PATIENCE_S = 0.25
_BATCHES = 4
"""Of the scan that are taken in at once."""
_MAX_NAMED = 4
MAX_CHUNKS = 4_000_000
"""Rows that are shown: a database may say any number, and each costs eight bytes."""


class ChunkRows:
    """A row model over one round of an open store."""

    def __init__(self, row: RoundRow, path: Path, pages: ChunkPages) -> None:
        """Stand before a round of the store at `path`; the scan begins at once."""
        self.round = row
        self.sort = ("chunk", False)
        self._path, self._pages = path, pages
        self._length = min(max(0, self.round.num_chunks), MAX_CHUNKS)
        self._pattern: Matcher = matcher("")
        self._damaged: frozenset[str] = frozenset()
        self._scan: ChunkScan | None = None
        self._is_scanned, self._num_bad_beyond = False, 0
        self._natural = BadFirst(self._length)
        self._found, self._keys = array("q"), ChunkKeys()
        self._order: Order | None = None
        self._ordering: RowOrder | None = None
        self._begin()

    @property
    def is_filtered(self) -> bool:
        """Whether rows may be left out."""
        return not self._pattern.is_everything

    @property
    def pattern(self) -> str:
        """The filter as it was typed."""
        return self._pattern.pattern

    @property
    def is_literal(self) -> bool:
        """Whether the pattern is not taken as a regular expression."""
        return self._pattern.is_literal

    @property
    def num_all(self) -> int:
        """Chunks of the round that can be shown."""
        return self._length

    @property
    def num_beyond(self) -> int:
        """Chunks of the round behind those, which have no row here."""
        return max(0, self.round.num_chunks - self._length)

    @property
    def num_bad(self) -> int:
        """Missing and damaged ones that were found so far, and have a row."""
        return self._natural.num_bad

    @property
    def num_bad_beyond(self) -> int:
        """Those of them that have none."""
        return self._num_bad_beyond

    @property
    def scan_error(self) -> str:
        """Why not every row could be looked at; empty: they could, so far."""
        error = self._scan.error if self._scan is not None else None
        return "" if error is None else str(error)

    @property
    def num_gone(self) -> int:
        """Those that were in the round when it was opened, and that no scan found."""
        return self._keys.num_gone

    @property
    def is_scanned(self) -> bool:
        """Whether every row was looked at."""
        return self._is_scanned

    @property
    def is_ordering(self) -> bool:
        """Whether another order is being made."""
        return self._ordering is not None

    def close(self) -> None:
        """Stop what goes on beside the screen."""
        if self._scan is not None:
            self._scan.stop()
        if self._ordering is not None:
            self._ordering.stop()
            self._ordering = None

    def restrict(self, pattern: str) -> None:
        """Begin a filter anew."""
        self._pattern = matcher(pattern)
        self._begin()

    def know_damaged(self, digests: Collection[str]) -> None:
        """Take in which chunks a verification found damaged."""
        found = frozenset(digests)
        if found != self._damaged:
            self._damaged = found
            self._begin()

    def order_by(self, column: str, *, is_descending: bool) -> bool:
        """Begin to put the rows in another order; False: the scan comes first."""
        if not self._is_scanned:
            return False
        self.sort = (column, is_descending)
        if self._keys.has(column):
            self._sort()
        else:
            self._keys = ChunkKeys(column)
            self._begin()
        return True

    def advance(self) -> bool:
        """Take in more of the scan, then an order; True: there is more to come."""
        if self._ordering is not None:
            return self._take_order(self._ordering)
        for _ in range(_BATCHES):
            batch = self._scan.take() if self._scan is not None else None
            if batch is None:
                if not self._is_scanned:
                    self._keys.skip_to(self._length)
                    self._is_scanned = True
                    self._sort()
                return self._ordering is not None
            if not batch:
                break
            self._take(batch)
        return True

    def __len__(self) -> int:
        return len(self._found) if self.is_filtered else self._length

    def key(self, index: int) -> Hashable:
        """Return the chunk's id."""
        return self._chunk_id(index)

    def find(self, key: Hashable) -> int | None:
        """Return where a chunk is now."""
        if not isinstance(key, int):
            return None
        if self._order is not None:
            return self._order.find(key)
        if self.is_filtered:
            place = bisect_left(self._found, key)
            is_here = place < len(self._found) and self._found[place] == key
            return place if is_here else None
        return self._natural.find(key)

    def row(self, index: int) -> Sequence[Cell]:
        """Return the cells of a chunk."""
        chunk = self.chunk(self._chunk_id(index))
        if chunk is None:
            chunk_id = self._chunk_id(index)
            word = "gone" if self._pages.is_gone(chunk_id) else "reading"
            return (Cell(units.count(chunk_id)), Cell(word, "dim"))
        names = dict.fromkeys(part.name for part in chunk.parts)
        return (
            Cell(units.count(chunk.chunk_id)),
            Cell(units.byte_size(chunk.size_bytes)),
            Cell(units.count(chunk.shared_with), "dim"),
            Cell(*self.state(chunk)),
            Cell(chunk.digest[:12], "dim"),
            Cell(_named(names)),
        )

    def chunk(self, chunk_id: int) -> ChunkRow | None:
        """Return one chunk; None: it is being read, or cannot be any more."""
        return self._pages.get(chunk_id)

    def take(self, what: Hashable, answer: object) -> None:
        """Keep what was read of the rows in sight."""
        self._pages.take(what, answer)

    def state(self, chunk: ChunkRow) -> tuple[str, str]:
        """Return what is known of a chunk's bytes, and the tone of that."""
        if chunk.is_missing:
            return ("missing", "bad")
        if chunk.digest in self._damaged:
            return ("damaged", "bad")
        return ("", "dim")

    def _begin(self) -> None:
        self.close()
        self._scan = ChunkScan(self._path, self.round.round_num)
        self._is_scanned, self._num_bad_beyond = False, 0
        self._natural = BadFirst(self._length)
        self._found, self._keys = array("q"), ChunkKeys(self._keys.text_column)
        self._order = None

    def _take(self, batch: list[ScannedChunk]) -> None:
        rows = [chunk for chunk in batch if self._keep(chunk)]
        if not self.is_filtered:
            return
        try:
            with patience(_PATIENCE_S):
                found = [c.chunk_id for c in rows if self._pattern(self._text(c))]
        except OutOfPatienceError:
            self._pattern = matcher(self._pattern.pattern, is_literal=True)
            self._begin()
            return
        self._found.extend(found)

    def _keep(self, chunk: ScannedChunk) -> bool:
        """Take in one chunk; False: it has no row."""
        is_bad = chunk.is_missing or chunk.digest in self._damaged
        if chunk.chunk_id >= self._length:
            self._num_bad_beyond += is_bad
            return False
        if chunk.chunk_id < len(self._keys):
            return False  # nobody who writes stores puts such a row in one
        self._keys.append(chunk)
        if is_bad:
            self._natural.add(chunk.chunk_id)
        return True

    def _text(self, chunk: ScannedChunk) -> str:
        state = "missing" if chunk.is_missing else ""
        state = "damaged" if chunk.digest in self._damaged else state
        return f"{chunk.chunk_id} {chunk.digest} {state} {chunk.names}"

    def _sort(self) -> None:
        """Begin to put what was found in the order that is wanted."""
        if self._ordering is not None:
            self._ordering.stop()
            self._ordering = None
        column, is_descending = self.sort
        if column == "chunk" and not is_descending:
            self._order = None  # the natural one
            return
        self._ordering = RowOrder(
            self._found if self.is_filtered else range(self._length),
            self._keys_of(column),
            is_descending=is_descending,
        )

    def _keys_of(self, column: str) -> Numbers:
        if column == "state":
            goodness = bytearray(b"\1") * self._length
            for chunk_id in self._natural.bad:
                goodness[chunk_id] = 0
            return goodness
        return self._keys.by(column)

    def _take_order(self, ordering: RowOrder) -> bool:
        order = ordering.take()
        if order is not None:
            self._order, self._ordering = order, None
        return order is None

    def _chunk_id(self, index: int) -> int:
        if self._order is not None:
            return self._order.ids[index]
        if self.is_filtered:
            return self._found[index]
        return self._natural.id_at(index)


def _named(names: Iterable[str]) -> str:
    names = list(names)
    more = len(names) - _MAX_NAMED
    text = ", ".join(names[:_MAX_NAMED])
    return f"{text} and {more} more" if more > 0 else text
