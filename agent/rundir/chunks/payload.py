"""Read chunks by digest; nothing leaves here unless its SHA-256 is right.

The connection is used by one thread; hashing runs beside it on others, since
`hashlib` releases the interpreter's lock, and is what a fast disk waits for.
"""

import os
import sqlite3
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from agent.rundir.chunks.errors import (
    ChunkPlace,
    DamagedChunkError,
    MissingChunkError,
    NewerStoreError,
    NoSuchRoundError,
    translated,
)
from agent.rundir.chunks.records import ChunkSpec, chunk_digest, decode_parts
from agent.rundir.chunks.schema import RAW_CODEC
from agent.rundir.chunks.sources import find_elsewhere, run_dir_of

NUM_HASHERS = max(1, min(4, os.cpu_count() or 1))

_LOOKAHEAD = 2 * NUM_HASHERS
"""Chunks in memory beyond the one being used."""


@dataclass(frozen=True, slots=True)
class Payload:
    """A chunk's plain bytes, as they are kept under a digest."""

    digest: str
    dtype: str
    data: bytes

    def is_sound(self) -> bool:
        """Whether the bytes have the digest."""
        return chunk_digest(self.dtype, (self.data,)) == self.digest


@dataclass(frozen=True)
class PayloadReader:
    """Reads chunks of one node's store."""

    conn: sqlite3.Connection
    path: Path
    node: str

    def get(self, digest: str) -> Payload:
        """Return one chunk, checked.

        Raises:
            MissingChunkError, DamagedChunkError: naming where it belongs and
                who else holds it.
        """
        payload = self.fetch(digest)
        if payload is None:
            raise self._missing(self._place(digest))
        if not payload.is_sound():
            raise self._damaged(self._place(digest))
        return payload

    def iter_checked(
        self, round_num: int, specs: Iterable[ChunkSpec]
    ) -> Iterator[tuple[ChunkSpec, bytes]]:
        """Yield the chunks of a round in order, each one checked.

        Each is read in a transaction of its own, so that a slow consumer
        does not keep the writer from resetting its log.

        Raises:
            MissingChunkError, DamagedChunkError: naming the chunk.
            NoSuchRoundError: the round was pruned while it was read.
        """
        pending: deque[tuple[ChunkSpec, bytes, Future[bool]]] = deque()
        with ThreadPoolExecutor(NUM_HASHERS, "chunk-hash") as pool:
            for spec in specs:
                payload = self._fetch_of_round(round_num, spec)
                future = pool.submit(payload.is_sound)
                pending.append((spec, payload.data, future))
                if len(pending) > _LOOKAHEAD:
                    yield self._checked(round_num, *pending.popleft())
            while pending:
                yield self._checked(round_num, *pending.popleft())

    def fetch(self, digest: str) -> Payload | None:
        """Return one chunk unchecked, or None.

        Raises:
            NewerStoreError: it is encoded in a way that this version lacks.
            DamagedStoreError: SQLite cannot read it.
        """
        with translated(self.path):
            row = self.conn.execute(
                "SELECT dtype, codec, data FROM chunk_data WHERE chunk_hash = ?",
                (digest,),
            ).fetchone()
        if row is None:
            return None
        dtype, codec, data = row
        if codec != RAW_CODEC:
            raise NewerStoreError(
                f"chunk `{digest[:12]}` of `{self.node}` has codec `{codec}`, "
                f"this version reads `{RAW_CODEC}`",
                hint="pip install --upgrade opsdash",
            )
        return Payload(digest, str(dtype), data if isinstance(data, bytes) else b"")

    def _fetch_of_round(self, round_num: int, spec: ChunkSpec) -> Payload:
        payload = self.fetch(spec.digest)
        if payload is not None:
            return payload
        if not self._has_round(round_num):
            raise NoSuchRoundError(
                f"round {round_num} of `{self.node}` was pruned while it was read"
            )
        raise self._missing(_place_in(self.node, round_num, spec))

    def _checked(
        self, round_num: int, spec: ChunkSpec, data: bytes, is_sound: Future[bool]
    ) -> tuple[ChunkSpec, bytes]:
        if not is_sound.result() or len(data) != spec.size_bytes:
            raise self._damaged(_place_in(self.node, round_num, spec))
        return spec, data

    def _has_round(self, round_num: int) -> bool:
        with translated(self.path):
            query = "SELECT 1 FROM rounds WHERE round_num = ?"
            return self.conn.execute(query, (round_num,)).fetchone() is not None

    def _missing(self, place: ChunkPlace) -> MissingChunkError:
        sources = find_elsewhere(self.path, place.digest)
        return MissingChunkError(place, "is missing", sources, run_dir_of(self.path))

    def _damaged(self, place: ChunkPlace) -> DamagedChunkError:
        sources = find_elsewhere(self.path, place.digest)
        return DamagedChunkError(
            place, "does not have its SHA-256", sources, run_dir_of(self.path)
        )

    def _place(self, digest: str) -> ChunkPlace:
        """Return where a digest belongs: the newest round that names it."""
        with translated(self.path):
            row = self.conn.execute(
                """SELECT round_num, chunk_id, parts_info FROM chunk_metadata
                   WHERE chunk_hash = ? ORDER BY round_num DESC LIMIT 1""",
                (digest,),
            ).fetchone()
        if row is None:
            return ChunkPlace(self.node, None, None, (), digest)
        return ChunkPlace(self.node, row[0], row[1], part_names(row[2]), digest)


def part_names(parts_info: str) -> tuple[str, ...]:
    """Return the tensors of a chunk, none if the row cannot be read."""
    try:
        return tuple(part.name for part in decode_parts(parts_info))
    except (TypeError, ValueError):
        return ()


def _place_in(node: str, round_num: int, spec: ChunkSpec) -> ChunkPlace:
    names = tuple(part.name for part in spec.parts)
    return ChunkPlace(node, round_num, spec.chunk_id, names, spec.digest)
