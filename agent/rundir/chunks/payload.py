"""Read chunks by digest; nothing leaves here unless its SHA-256 is right.

The connection is used by one thread; hashing runs beside it on others, since
`hashlib` releases the interpreter's lock, and is what a fast disk waits for.
"""

import os
import sqlite3
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from agent.rundir.chunks.connection import reading
from agent.rundir.chunks.errors import (
    ChunkPlace,
    DamagedChunkError,
    MissingChunkError,
    NewerStoreError,
    NoSuchRoundError,
    translated,
)
from agent.rundir.chunks.records import (
    Buffer,
    ChunkSpec,
    chunk_digest,
    decode_parts,
)
from agent.rundir.chunks.schema import RAW_CODEC
from agent.rundir.chunks.sources import find_elsewhere, run_dir_of

NUM_HASHERS = max(1, min(4, os.cpu_count() or 1))

_MAX_AHEAD = 2 * NUM_HASHERS
_MAX_AHEAD_BYTES = 8 << 20
"""What may be held beyond the chunk being used: large ones come one by one."""

_INLINE_BYTES = 256 << 10
"""Below this, handing a chunk to another thread costs more than hashing it."""

_PIECE_BYTES = 1 << 20
"""A value that SQLite returns whole is in memory twice for a moment; larger
ones are read in pieces."""

_Tag = TypeVar("_Tag")


@dataclass(frozen=True, slots=True)
class Payload:
    """A chunk's plain bytes, as they are kept under a digest."""

    digest: str
    dtype: str
    data: Buffer

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
    ) -> Iterator[tuple[ChunkSpec, Buffer]]:
        """Yield the chunks of a round in order, each one checked.

        Each is read in a transaction of its own, so that a slow consumer
        does not keep the writer from resetting its log.

        Raises:
            MissingChunkError, DamagedChunkError: naming the chunk.
            NoSuchRoundError: the round was pruned while it was read.
        """
        fetched = ((spec, self._fetch_of_round(round_num, spec)) for spec in specs)
        for spec, payload, is_sound in iter_hashed(fetched):
            if not is_sound or len(payload.data) != spec.size_bytes:
                raise self._damaged(_place_in(self.node, round_num, spec))
            data = payload.data
            # Whoever asks for the next chunk must be able to drop this one.
            del payload
            yield spec, data
            del data

    def fetch(self, digest: str) -> Payload | None:
        """Return one chunk unchecked, or None.

        Raises:
            NewerStoreError: it is encoded in a way that this version lacks.
            DamagedStoreError: SQLite cannot read it.
        """
        with reading(self.conn, self.path):
            row = self.conn.execute(
                """SELECT rowid, dtype, codec, length(data),
                          CASE WHEN length(data) <= ? THEN data END
                   FROM chunk_data WHERE chunk_hash = ?""",
                (_PIECE_BYTES, digest),
            ).fetchone()
            if row is None:
                return None
            rowid, dtype, codec, size, data = row
            if codec != RAW_CODEC:
                raise self._unknown_codec(digest, codec)
            if size is not None and size > _PIECE_BYTES:
                data = self._read_in_pieces(rowid, size)
        # A flipped type makes text or a number of it: bytes without the digest.
        is_blob = isinstance(data, bytes | bytearray)
        return Payload(digest, str(dtype), data if is_blob else b"")

    def _read_in_pieces(self, rowid: int, size: int) -> bytearray:
        data = bytearray(size)
        with self.conn.blobopen("chunk_data", "data", rowid, readonly=True) as blob:
            for start in range(0, size, _PIECE_BYTES):
                piece = blob.read(_PIECE_BYTES)
                data[start : start + len(piece)] = piece
        return data

    def _unknown_codec(self, digest: str, codec: object) -> NewerStoreError:
        return NewerStoreError(
            f"chunk `{digest[:12]}` of `{self.node}` has codec `{codec}`, "
            f"this version reads `{RAW_CODEC}`",
            hint="pip install --upgrade opsdash",
        )

    def _fetch_of_round(self, round_num: int, spec: ChunkSpec) -> Payload:
        payload = self.fetch(spec.digest)
        if payload is not None:
            return payload
        if not self._has_round(round_num):
            raise NoSuchRoundError(
                f"round {round_num} of `{self.node}` was pruned while it was read"
            )
        raise self._missing(_place_in(self.node, round_num, spec))

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


def iter_hashed(
    fetched: Iterable[tuple[_Tag, Payload]],
) -> Iterator[tuple[_Tag, Payload, bool]]:
    """Yield each chunk in order with whether its bytes have its digest."""
    pending: deque[tuple[_Tag, Payload, Callable[[], bool]]] = deque()
    held = 0
    with ThreadPoolExecutor(NUM_HASHERS, "chunk-hash") as pool:
        for tag, payload in fetched:
            verdict = payload.is_sound
            if len(payload.data) > _INLINE_BYTES:
                verdict = pool.submit(payload.is_sound).result
            pending.append((tag, payload, verdict))
            held += len(payload.data)
            del payload, verdict
            while len(pending) > _MAX_AHEAD or held > _MAX_AHEAD_BYTES:
                held -= len(pending[0][1].data)
                yield _settled(*pending.popleft())
        while pending:
            yield _settled(*pending.popleft())


def _settled(
    tag: _Tag, payload: Payload, verdict: Callable[[], bool]
) -> tuple[_Tag, Payload, bool]:
    return tag, payload, verdict()


def part_names(parts_info: str) -> tuple[str, ...]:
    """Return the tensors of a chunk, none if the row cannot be read."""
    try:
        return tuple(part.name for part in decode_parts(parts_info))
    except (TypeError, ValueError):
        return ()


def _place_in(node: str, round_num: int, spec: ChunkSpec) -> ChunkPlace:
    names = tuple(part.name for part in spec.parts)
    return ChunkPlace(node, round_num, spec.chunk_id, names, spec.digest)
