"""Read every chunk row of a round once, in a thread, for sorting and filtering.

The screen asks for the rows in sight by itself; what needs all of them comes
from here in batches, a few ahead of whoever takes them, so that memory stays
bounded however many there are.
"""

import queue
import threading
import time
from pathlib import Path
from typing import NamedTuple

from agent.rundir.chunks.reader import ChunkStoreReader
from agent.rundir.chunks.records import ChunkRow
from agent.rundir.errors import RunDirError

_BATCH_ROWS = 1_000
_MAX_AHEAD = 4
_PAUSE_S = 0.002
"""Between two batches: the screen's thread wants the interpreter too."""


class ScannedChunk(NamedTuple):
    """What sorting and filtering need of one chunk."""

    chunk_id: int
    size_bytes: int
    shared_with: int
    digest: str
    is_missing: bool
    names: str
    """Of the tensors in it, with blanks between them."""


class ChunkScan:
    """One pass over one round of one store."""

    def __init__(self, path: Path, round_num: int) -> None:
        """Begin."""
        self.error: RunDirError | None = None
        """Why it ended early; None: it did not."""
        self._path, self._round_num = path, round_num
        self._batches: queue.Queue[list[ScannedChunk] | None] = queue.Queue(_MAX_AHEAD)
        self._stopping = threading.Event()
        self._thread = threading.Thread(
            target=self._run, name="opsdash-chunks", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Give up."""
        self._stopping.set()

    def take(self) -> list[ScannedChunk] | None:
        """Return the next batch; empty: none is there yet; None: that was all."""
        try:
            batch = self._batches.get_nowait()
        except queue.Empty:
            return []
        if batch is None:
            self._batches.put(None)  # for whoever asks again
        return batch

    def _run(self) -> None:
        try:
            self._read()
        except RunDirError as error:
            self.error = error
        except Exception as error:  # noqa: BLE001 - a thread that ends without a word is never seen
            self.error = RunDirError(f"{type(error).__name__}: {error}")
        self._put(None)

    def _read(self) -> None:
        with ChunkStoreReader(self._path) as reader:
            start = 0
            while not self._stopping.is_set():
                rows = reader.chunks(self._round_num, start, _BATCH_ROWS)
                if not rows:
                    return
                self._put([_scanned(row) for row in rows])
                start = rows[-1].chunk_id + 1
                time.sleep(_PAUSE_S)

    def _put(self, batch: list[ScannedChunk] | None) -> None:
        while not self._stopping.is_set():
            try:
                self._batches.put(batch, timeout=0.2)
            except queue.Full:
                continue
            return


def _scanned(row: ChunkRow) -> ScannedChunk:
    names = " ".join(dict.fromkeys(part.name for part in row.parts))
    return ScannedChunk(
        row.chunk_id,
        row.size_bytes,
        row.shared_with,
        row.digest,
        row.is_missing,
        names,
    )
