"""What a chunk store holds at this moment, read from the store itself.

What its owner told after the newest round says nothing of a prune since, and
nothing at all where nobody told: this looks. No chunk's bytes are read.
"""

from pathlib import Path
from typing import NamedTuple

from agent.rundir.chunks.reader import ChunkStoreReader


class StoredNow(NamedTuple):
    """One store as it is."""

    round_num: int | None
    """The newest; None: it holds none."""
    num_rounds: int
    num_chunks: int
    """Distinct ones, on the disk once each."""
    file_bytes: int


def stored_now(path: Path) -> StoredNow:
    """Look into a store.

    Raises:
        RunDirError: it cannot be read.
    """
    with ChunkStoreReader(path) as reader:
        stats, rounds = reader.stats(), reader.rounds()
    return StoredNow(
        rounds[-1].round_num if rounds else None,
        stats.num_rounds,
        stats.num_unique_chunks,
        stats.file_bytes,
    )
