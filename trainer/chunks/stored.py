"""Read rounds as tensors from a store that somebody may be writing to.

Every call has a reader of its own, so that any thread may call at any time; no
state of the database is held in between. Opening one takes longer than reading
a small round, so the reader of the last call is kept for the next, unless it
met an error or another file lies at the path. A forked child opens its own:
SQLite's connections do not survive a fork. All readers share what is known of
damaged chunks.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from agent.rundir.chunks.layout import RoundLayout
from agent.rundir.chunks.payload import Payload
from agent.rundir.chunks.reader import ChunkStoreReader, StoreStats
from agent.rundir.chunks.records import RoundRow
from trainer.chunks.restore import load_optimizer, load_tensors


class StoredRounds:
    """One node's rounds, for reading."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._pid = os.getpid()
        self._spare: list[ChunkStoreReader] = []
        """One at most; taken and given back in one step, whatever the thread."""
        self._suspects: set[str] = set()
        """Digests whose copy was damaged when it was last looked at."""

    def reader(self) -> ChunkStoreReader:
        """Return a reader of the same store; the caller closes it.

        Raises:
            RunDirError: the store cannot be read.
        """
        return ChunkStoreReader(self.path, self._suspects)

    def get_round(
        self, round_num: int, pattern: str | None = None
    ) -> dict[str, Tensor]:
        """Return a round's parameters and buffers, whole or by shell pattern.

        Raises:
            NoSuchRoundError, NoSuchTensorError: it is not there.
            MissingChunkError, DamagedChunkError: naming the chunk and who
                else holds it.
        """
        with self._borrowed() as reader:
            return load_tensors(reader, round_num, pattern)

    def get_optimizer(self, round_num: int) -> dict[str, Any] | None:
        """Return the optimizer's `state_dict` of a round; None if it has none.

        Raises:
            NoSuchRoundError, MissingChunkError, DamagedChunkError: as above.
        """
        with self._borrowed() as reader:
            return load_optimizer(reader, round_num)

    def layout(self, round_num: int) -> RoundLayout:
        """Return all of a round but its bytes, to be sent to another node.

        Raises:
            NoSuchRoundError: it is not there.
        """
        with self._borrowed() as reader:
            return reader.layout(round_num)

    def rounds(self) -> list[RoundRow]:
        """Return all rounds, oldest first.

        Raises:
            RunDirError: the store cannot be read.
        """
        with self._borrowed() as reader:
            return reader.rounds()

    def stats(self) -> StoreStats:
        """Return counts and sizes, for telemetry.

        Raises:
            RunDirError: the store cannot be read.
        """
        with self._borrowed() as reader:
            return reader.stats()

    def has(self, digests: Iterable[str]) -> set[str]:
        """Return which of the chunks are there and not known to be damaged.

        Known is what a read, a `verify` through a reader of this store, or a
        round that could not be committed has found; only such chunks are read
        again, as somebody may have mended them.

        Raises:
            RunDirError: the store cannot be read.
        """
        with self._borrowed() as reader:
            return reader.has(digests)

    def lacking(self, layout: RoundLayout) -> list[str]:
        """Return the digests of a layout that are still to be fetched, in order.

        Raises:
            RunDirError: the store cannot be read.
        """
        digests = list(dict.fromkeys(chunk.digest for chunk in layout.chunks))
        present = self.has(digests)
        return [digest for digest in digests if digest not in present]

    def get_chunk(self, digest: str) -> Payload:
        """Return one chunk, checked.

        Raises:
            MissingChunkError, DamagedChunkError: naming who else holds it.
        """
        with self._borrowed() as reader:
            return reader.get_chunk(digest)

    def get_state(self, key: str) -> bytes | None:
        """Return a value of `node_state`, or None.

        Raises:
            RunDirError: the store cannot be read.
        """
        with self._borrowed() as reader:
            return reader.state(key)

    def close_readers(self) -> None:
        """Let go of the file; the next call opens it again."""
        while self._spare:
            self._spare.pop().close()

    @contextmanager
    def _borrowed(self) -> Iterator[ChunkStoreReader]:
        reader = self._take_spare() or self.reader()
        is_sound = False
        try:
            yield reader
            is_sound = True
        finally:
            if is_sound and not self._spare and self._pid == os.getpid():
                self._spare.append(reader)
            else:
                reader.close()

    def _take_spare(self) -> ChunkStoreReader | None:
        if self._pid != os.getpid():
            return None
        try:
            spare = self._spare.pop()
        except IndexError:
            return None
        if spare.is_of_this_file:
            return spare
        spare.close()
        return None
