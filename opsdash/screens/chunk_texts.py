"""What chunks are ordered by where a column is text: eight bytes each."""

from array import array

from opsdash.operations.chunk_scan import ScannedChunk
from opsdash.projections.columns import Ranked
from opsdash.screens.row_order import Numbers

TEXT_COLUMNS = ("digest", "holds")
_DIGITS = 16
"""Of a digest: more than are shown, and what eight bytes hold."""
_MAX_NAMES = 65_536
"""Sets of tensors that are told apart; those that come later stay behind them."""


class TextKeys:
    """One column of one round, filled as its chunks are scanned."""

    def __init__(self, column: str) -> None:
        """Begin with no chunk; `column` is one of `TEXT_COLUMNS`."""
        self.column = column
        self._keys = array("Q")
        self._ids: dict[str, int] = {}

    def append(self, chunk: ScannedChunk) -> None:
        """Take in the next chunk."""
        is_digest = self.column == "digest"
        self._keys.append(_number(chunk.digest) if is_digest else self._id(chunk.names))

    def skip(self, num_chunks: int) -> None:
        """Leave room for chunks that are gone."""
        gone = 0 if self.column == "digest" else self._id("")
        self._keys.extend(array("Q", [gone]) * num_chunks)

    def numbers(self) -> Numbers:
        """Return what to order by, none negative."""
        if self.column == "digest":
            return self._keys
        names = sorted(self._ids)
        places = [0] * (len(names) + 1)
        for place, name in enumerate(names):
            places[self._ids[name]] = place
        places[-1] = len(names)
        return Ranked(self._keys, places)

    def _id(self, names: str) -> int:
        if len(self._ids) < _MAX_NAMES:
            return self._ids.setdefault(names, len(self._ids))
        return self._ids.get(names, _MAX_NAMES)


def _number(digest: str) -> int:
    """Return the beginning of a digest; 0: it is not one."""
    try:
        return max(0, int(digest[:_DIGITS].ljust(_DIGITS, "0"), 16))
    except ValueError:
        return 0
