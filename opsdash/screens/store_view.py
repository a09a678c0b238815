"""One node's chunk store as the browser sees it: open, looked at, closed again.

Everything is a short read transaction; what cannot be read is kept as a text
and never raised, because a store may be pruned, damaged or gone at any moment.
"""

from pathlib import Path

from agent.rundir.chunks.reader import ChunkStoreReader
from agent.rundir.chunks.records import ChunkRow, RoundRow
from agent.rundir.errors import RunDirError
from opsdash.screens.chunk_rows import ChunkRows


class StoreView:
    """An open store; `error` says why there is nothing to see."""

    def __init__(self, node: str, path: Path) -> None:
        self.node = node
        self.path = path
        self.error = ""
        self.chunks: ChunkRows | None = None
        """Of the round that was opened; None: none was."""
        self._reader: ChunkStoreReader | None = None
        self._open()

    def close(self) -> None:
        """Let go of the file."""
        self.leave_round()
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def rounds(self) -> list[RoundRow]:
        """Return its rounds as they are now, newest first; empty: see `error`."""
        if self._reader is None:
            self._open()
        if self._reader is None:
            return []
        try:
            self.error = ""
            return self._reader.rounds()[::-1]
        except RunDirError as error:
            self.error = str(error)
            return []

    def open_round(self, round_num: int) -> bool:
        """Stand before a round's chunks; False: it is not there."""
        self.leave_round()
        if self._reader is None:
            return False
        try:
            self.chunks = ChunkRows(self._reader, self.path, round_num)
        except RunDirError as error:
            self.error = str(error)
            return False
        return True

    def leave_round(self) -> None:
        """Forget the round that was opened."""
        if self.chunks is not None:
            self.chunks.close()
            self.chunks = None

    def chunk(self, chunk_id: int) -> ChunkRow | None:
        """Return one chunk of the round that is open."""
        return self.chunks.chunk(chunk_id) if self.chunks is not None else None

    def _open(self) -> None:
        try:
            self._reader = ChunkStoreReader(self.path)
            self.error = ""
        except RunDirError as error:
            self.error = str(error) + (f" ({error.hint})" if error.hint else "")
