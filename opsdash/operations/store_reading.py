"""One chunk store that is read beside a screen: opened at the first wish, kept open."""

from collections.abc import Callable, Hashable, Mapping
from pathlib import Path
from typing import TypeAlias

from agent.rundir.chunks.reader import ChunkStoreReader
from opsdash.operations.beside import Beside

Read: TypeAlias = Callable[[ChunkStoreReader], object]


class StoreReading:
    """A store that is read beside a screen until `stop`."""

    def __init__(self, path: Path, on_answer: Callable[[], None]) -> None:
        """Prepare; a store that cannot be opened is tried again at the next wish.

        Args:
            path: The store's file.
            on_answer: Called in the reading thread after each answer.
        """
        self._path = path
        self._reader: ChunkStoreReader | None = None
        """Only the thread that reads has to do with it."""
        self._beside = Beside("opsdash-store", on_answer, at_end=self._close)

    def ask(self, what: Hashable, read: Read) -> None:
        """Wish for something; nothing happens where it is being read already."""
        self._beside.ask(what, lambda: read(self._opened()))

    def take(self) -> Mapping[Hashable, object]:
        """Return what was answered since the last call; a failure as its error."""
        return self._beside.take()

    def stop(self) -> None:
        """Let go of the store as soon as the present read is done."""
        self._beside.stop()

    def join(self, patience_s: float) -> bool:
        """Wait until the store is let go of; False: it still is read."""
        return self._beside.join(patience_s)

    def _opened(self) -> ChunkStoreReader:
        if self._reader is None:
            self._reader = ChunkStoreReader(self._path)
        return self._reader

    def _close(self) -> None:
        if self._reader is not None:
            self._reader.close()
