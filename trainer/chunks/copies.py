"""Whether a store's copy of a chunk is what its digest says, bytes and all.

A digest in the table promises nothing: bytes rot on disk, and SQLite does not
notice. A round that is put has its own bytes at hand, so they are compared
with the copy, all of them: 14 ms for 25M frozen parameters (two cores), where
hashing them again would take 50, and nothing where no chunk is shared. A round
that was received has nothing to compare with: there the copy is hashed.

A copy on pages that cannot be read is never written over: the way to its pages
may lead to those of others, which would then be freed.
"""

import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from agent.rundir.chunks.errors import translated
from agent.rundir.chunks.records import chunk_digest
from agent.rundir.chunks.schema import RAW_CODEC

_STEP_BYTES = 256 << 10
"""Fits into a core's cache beside its copy."""


class Copy(StrEnum):
    """What a store has of a chunk."""

    ABSENT = "absent"
    SOUND = "sound"
    DAMAGED = "damaged"
    OF_ANOTHER_KIND = "of_another_kind"
    """Kept under another dtype or size than the one asked for."""


@dataclass(frozen=True)
class Copies:
    """Looks at copies inside the writer's open transaction."""

    conn: sqlite3.Connection
    path: Path

    def compare(self, digest: str, dtype: str, pieces: Sequence[memoryview]) -> Copy:
        """Compare a copy with the bytes that it should have.

        Raises:
            DamagedStoreError: SQLite cannot read it.
        """
        size_bytes = sum(piece.nbytes for piece in pieces)
        with translated(self.path):
            rowid, found = self._find(digest, (dtype, size_bytes))
            if found is not Copy.SOUND:
                return found
            with self._open(rowid) as blob:
                is_same = all(blob.read(len(own)) == own for own in _steps(pieces))
        return Copy.SOUND if is_same else Copy.DAMAGED

    def check(self, digest: str, dtype: str, size_bytes: int) -> Copy:
        """Hash a copy whose bytes are nowhere else.

        Raises:
            DamagedStoreError: SQLite cannot read it.
        """
        with translated(self.path):
            rowid, found = self._find(digest, (dtype, size_bytes))
            if found is not Copy.SOUND:
                return found
            with self._open(rowid) as blob:
                steps = range(0, size_bytes, _STEP_BYTES)
                pieces = (blob.read(_STEP_BYTES) for _ in steps)
                is_same = chunk_digest(dtype, pieces) == digest
        return Copy.SOUND if is_same else Copy.DAMAGED

    def _find(self, digest: str, expected: tuple[str, int]) -> tuple[int, Copy]:
        """Return where a copy is, and what can be said without reading it."""
        row = self.conn.execute(
            """SELECT rowid, codec, typeof(data), dtype, length(data)
               FROM chunk_data WHERE chunk_hash = ?""",
            (digest,),
        ).fetchone()
        if row is None:
            return 0, Copy.ABSENT
        rowid, codec, kind, *described = row
        if (codec, kind) != (RAW_CODEC, "blob"):
            return rowid, Copy.DAMAGED
        is_expected = tuple(described) == expected
        return rowid, Copy.SOUND if is_expected else Copy.OF_ANOTHER_KIND

    def _open(self, rowid: int) -> sqlite3.Blob:
        return self.conn.blobopen("chunk_data", "data", rowid, readonly=True)


def _steps(pieces: Sequence[memoryview]) -> Iterator[bytes]:
    """Yield the bytes in order, few at a time."""
    for piece in pieces:
        for at in range(0, piece.nbytes, _STEP_BYTES):
            yield bytes(piece[at : at + _STEP_BYTES])
