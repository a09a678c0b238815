"""Look into a database that the original ChunkManager wrote, executing nothing.

Its blobs are pickled arrays. Rounds, chunks, parts and digests can be shown
without touching a pickle; the digest is SHA-256 of the pickle itself, so that
damage is told without loading it. Nothing is ever written there.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from agent.rundir.chunks.connection import connect_readonly, reading, table_names
from agent.rundir.chunks.errors import (
    ChunkPlace,
    DamagedChunkError,
    DamagedStoreError,
    MissingChunkError,
    NoSuchRoundError,
    NotAChunkStoreError,
    translated,
)
from agent.rundir.chunks.records import ChunkRow, decode_parts
from agent.rundir.chunks.sources import node_of, run_dir_of

_CHUNK_QUERY = """SELECT m.chunk_id, m.chunk_hash, length(d.data), m.parts_info,
        (SELECT count(DISTINCT o.round_num) FROM chunk_metadata o
         WHERE o.chunk_hash = m.chunk_hash AND o.round_num <> m.round_num)
    FROM chunk_metadata m LEFT JOIN chunk_data d ON d.chunk_hash = m.chunk_hash
    WHERE m.round_num = ? ORDER BY m.chunk_id"""


@dataclass(frozen=True, slots=True)
class ForeignRound:
    """One round of a foreign database."""

    round_num: int
    num_chunks: int
    num_bytes: int
    """Of the pickles; chunks that are missing count nothing."""
    num_missing: int


class ForeignStoreReader:
    """Rounds and chunks of a foreign database; use it in a `with` statement."""

    def __init__(self, path: Path) -> None:
        """Open the database at `path`.

        Raises:
            NotAChunkStoreError: it is something else.
            StoreLockedError: another process locks it for too long.
            DamagedStoreError: SQLite cannot read it.
        """
        self.path = path
        self.node = node_of(path)
        self._conn = connect_readonly(path)
        try:
            self._check_tables()
        except BaseException:
            self._conn.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._conn.close()

    def _check_tables(self) -> None:
        with translated(self.path):
            tables = table_names(self._conn)
        if not {"chunk_metadata", "chunk_data"} <= tables:
            raise NotAChunkStoreError(f"`{self.path}` has no chunks")

    def rounds(self) -> list[ForeignRound]:
        """Return all rounds, oldest first.

        Raises:
            DamagedStoreError: the database cannot be read.
        """
        with translated(self.path):
            rows = self._conn.execute(
                """SELECT m.round_num, count(*), coalesce(sum(length(d.data)), 0),
                          sum(d.chunk_hash IS NULL)
                   FROM chunk_metadata m
                   LEFT JOIN chunk_data d ON d.chunk_hash = m.chunk_hash
                   GROUP BY m.round_num ORDER BY m.round_num"""
            ).fetchall()
        try:
            return [ForeignRound(*map(int, row)) for row in rows]
        except (TypeError, ValueError) as error:
            raise DamagedStoreError(
                f"a round in `{self.path}` has no number: {error}"
            ) from error

    def chunks(self, round_num: int) -> list[ChunkRow]:
        """Return the chunks of a round.

        Raises:
            NoSuchRoundError: it is not there.
            DamagedStoreError: its rows cannot be read.
        """
        with reading(self._conn, self.path):
            rows = self._conn.execute(_CHUNK_QUERY, (round_num,)).fetchall()
        if not rows:
            raise NoSuchRoundError(f"`{self.path}` does not hold round {round_num}")
        try:
            return [_chunk_row(round_num, row) for row in rows]
        except (TypeError, ValueError) as error:
            raise DamagedStoreError(
                f"the rows of round {round_num} in `{self.path}`: {error}"
            ) from error

    def pickle_of(self, chunk: ChunkRow) -> bytes:
        """Return a chunk's pickle, its digest checked, not loaded.

        Raises:
            MissingChunkError, DamagedChunkError: naming the chunk.
        """
        with translated(self.path):
            row = self._conn.execute(
                "SELECT data FROM chunk_data WHERE chunk_hash = ?", (chunk.digest,)
            ).fetchone()
        names = tuple(part.name for part in chunk.parts)
        place = ChunkPlace(
            self.node, chunk.round_num, chunk.chunk_id, names, chunk.digest
        )
        run_dir = run_dir_of(self.path)
        if row is None:
            raise MissingChunkError(place, "is missing", (), run_dir)
        data = row[0] if isinstance(row[0], bytes) else b""
        if hashlib.sha256(data).hexdigest() != chunk.digest:
            raise DamagedChunkError(place, "does not have its SHA-256", (), run_dir)
        return data


def _chunk_row(round_num: int, row: tuple[Any, ...]) -> ChunkRow:
    chunk_id, digest, size_bytes, parts_info, shared_with = row
    return ChunkRow(
        round_num=round_num,
        chunk_id=int(chunk_id),
        digest=str(digest),
        size_bytes=0 if size_bytes is None else int(size_bytes),
        shared_with=int(shared_with),
        parts=decode_parts(parts_info),
        is_missing=size_bytes is None,
    )
