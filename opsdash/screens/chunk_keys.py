"""What the chunks of a round are ordered by, filled as they are scanned.

A row that is gone leaves room, so that the keys of all others stay in place.
"""

from array import array

from opsdash.operations.chunk_scan import ScannedChunk
from opsdash.projections.columns import appended
from opsdash.screens.chunk_texts import TEXT_COLUMNS, TextKeys
from opsdash.screens.row_order import Numbers


class ChunkKeys:
    """The keys of one scan; sizes always, of texts one column at most."""

    def __init__(self, text_column: str | None = None) -> None:
        """Begin with no chunk."""
        self.text_column = text_column
        self.num_gone = 0
        """Rows that were left out."""
        self._sizes, self._shared = array("I"), array("I")
        self._texts = None if text_column is None else TextKeys(text_column)

    def __len__(self) -> int:
        return len(self._sizes)

    def has(self, column: str) -> bool:
        """Whether a column can be ordered by without another scan."""
        return column not in TEXT_COLUMNS or column == self.text_column

    def append(self, chunk: ScannedChunk) -> None:
        """Take in a chunk; what lies between it and the one before is gone."""
        self.skip_to(chunk.chunk_id)
        self._sizes = appended(self._sizes, max(0, chunk.size_bytes))
        self._shared = appended(self._shared, max(0, chunk.shared_with))
        if self._texts is not None:
            self._texts.append(chunk)

    def skip_to(self, chunk_id: int) -> None:
        """Leave room for rows that are gone."""
        num_gone = chunk_id - len(self)
        for keys in (self._sizes, self._shared):
            keys.extend(array(keys.typecode, [0]) * num_gone)
        if self._texts is not None:
            self._texts.skip(num_gone)
        self.num_gone += num_gone

    def by(self, column: str) -> Numbers:
        """Return what to order by; a column that has no keys of its own: by id."""
        if self._texts is not None and column == self.text_column:
            return self._texts.numbers()
        by_id = range(len(self))
        return {"size": self._sizes, "shared": self._shared}.get(column, by_id)
