"""Read chunks by digest; nothing counts unless its SHA-256 is right.

A chunk is read piece by piece, each hashed and handed on while it is in the
processor's cache. Every chunk is read in a transaction of its own, so that a
slow consumer does not keep the writer from resetting its log.
"""

import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from agent.rundir.chunks.connection import connect_readonly, reading
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
    chunk_hasher,
    decode_parts,
)
from agent.rundir.chunks.schema import RAW_CODEC
from agent.rundir.chunks.sources import find_elsewhere, run_dir_of
from agent.rundir.errors import RunDirError

_PIECE_BYTES = 256 << 10
"""Fits into a core's cache beside its copy."""

_WHOLE_BYTES = 1 << 20
"""A value that SQLite returns whole is in memory twice for a moment; larger
ones are read in pieces."""

Take = Callable[[int, Buffer], None]
"""Called with where in the chunk a piece begins, and the piece."""


@dataclass(frozen=True, slots=True)
class Payload:
    """A chunk's plain bytes, as they are kept under a digest."""

    digest: str
    dtype: str
    data: Buffer

    def is_sound(self) -> bool:
        """Whether the bytes have the digest."""
        return chunk_digest(self.dtype, (self.data,)) == self.digest


class Passed(NamedTuple):
    """What a chunk that was handed over has turned out to be."""

    size_bytes: int
    is_sound: bool
    """Whether the bytes have the digest."""


class _BlobRow(NamedTuple):
    rowid: int
    dtype: str
    size_bytes: int
    data: bytes | None
    """None: too large to be read at once."""


@dataclass(frozen=True)
class PayloadReader:
    """Reads chunks of one node's store."""

    conn: sqlite3.Connection
    path: Path
    node: str
    idle: list[sqlite3.Connection] = field(default_factory=list)
    """Other connections to the store, for threads that read beside this one."""
    suspects: set[str] = field(default_factory=set)
    """Digests whose copy was damaged when it was last looked at; threads share it."""

    def take_twin(self) -> "PayloadReader":
        """Return a reader of the same store for another thread.

        Raises:
            RunDirError: the store cannot be opened again.
        """
        try:
            conn = self.idle.pop()
        except IndexError:
            conn = connect_readonly(self.path)
        return PayloadReader(conn, self.path, self.node, suspects=self.suspects)

    def give_back(self, twin: "PayloadReader") -> None:
        """Keep a twin's connection for the next one."""
        self.idle.append(twin.conn)

    def close(self) -> None:
        """Let go of the file; closing twice is fine."""
        self.conn.close()
        while self.idle:
            self.idle.pop().close()

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

    def get_of_round(self, round_num: int, spec: ChunkSpec) -> Buffer:
        """Return one chunk of a round, checked.

        Raises:
            MissingChunkError, DamagedChunkError: naming the chunk.
            NoSuchRoundError: the round was pruned while it was read.
        """
        payload = self.fetch(spec.digest)
        if payload is None:
            raise self._absent(round_num, spec)
        if len(payload.data) != spec.size_bytes or not payload.is_sound():
            raise self._damaged(_place_in(self.node, round_num, spec))
        return payload.data

    def deliver(self, round_num: int, spec: ChunkSpec, take: Take) -> None:
        """Hand one chunk of a round over; it counts only once this returns.

        Raises:
            MissingChunkError, DamagedChunkError: naming the chunk; some of it
                may have been handed over.
            NoSuchRoundError: the round was pruned while it was read.
        """
        passed = self.pass_on(spec.digest, take)
        if passed is None:
            raise self._absent(round_num, spec)
        if passed != (spec.size_bytes, True):
            raise self._damaged(_place_in(self.node, round_num, spec))

    def pass_on(self, digest: str, take: Take) -> Passed | None:
        """Hand a chunk over piece by piece; say afterwards what it was.

        Returns:
            None: it is not there.

        Raises:
            NewerStoreError: it is encoded in a way that this version lacks.
            DamagedStoreError: SQLite cannot read it.
        """
        with reading(self.conn, self.path):
            row = self._select(digest, _PIECE_BYTES)
            if row is None:
                return None
            hasher = chunk_hasher(row.dtype)
            size_bytes = 0
            for piece in self._iter_pieces(row):
                hasher.update(piece)
                take(size_bytes, piece)
                size_bytes += len(piece)
        return Passed(size_bytes, hasher.hexdigest() == digest)

    def without_damaged(self, digests: set[str]) -> set[str]:
        """Leave out what is known to be damaged and has not been mended since.

        Only suspects are read again: where there is none, nothing is.
        """
        still = {d for d in digests & self.suspects if not self._is_mended(d)}
        return digests - still

    def _is_mended(self, digest: str) -> bool:
        try:
            payload = self.fetch(digest)
        except RunDirError:
            return False
        is_sound = payload is not None and payload.is_sound()
        if is_sound:
            self.suspects.discard(digest)
        return is_sound

    def fetch(self, digest: str) -> Payload | None:
        """Return one chunk unchecked, or None.

        Raises:
            NewerStoreError: it is encoded in a way that this version lacks.
            DamagedStoreError: SQLite cannot read it.
        """
        with reading(self.conn, self.path):
            row = self._select(digest, _WHOLE_BYTES)
            if row is None:
                return None
            data = self._whole(row)
        return Payload(digest, row.dtype, data)

    def _whole(self, row: _BlobRow) -> Buffer:
        if row.data is not None:
            return row.data
        data = bytearray(row.size_bytes)
        at = 0
        for piece in self._iter_pieces(row):
            data[at : at + len(piece)] = piece
            at += len(piece)
        return data

    def _select(self, digest: str, whole_bytes: int) -> _BlobRow | None:
        found = self.conn.execute(
            """SELECT rowid, dtype, codec, typeof(data) = 'blob', length(data),
                      CASE WHEN length(data) <= ? THEN data END
               FROM chunk_data WHERE chunk_hash = ?""",
            (whole_bytes, digest),
        ).fetchone()
        if found is None:
            return None
        rowid, dtype, codec, is_blob, size_bytes, data = found
        if codec != RAW_CODEC:
            raise self._unknown_codec(digest, codec)
        # A flipped type makes text or a number of it: bytes without the digest.
        if not is_blob:
            return _BlobRow(rowid, str(dtype), 0, b"")
        return _BlobRow(rowid, str(dtype), size_bytes, data)

    def _iter_pieces(self, row: _BlobRow) -> Iterator[bytes]:
        if row.data is not None:
            yield row.data
            return
        with self.conn.blobopen("chunk_data", "data", row.rowid, readonly=True) as blob:
            for _ in range(0, row.size_bytes, _PIECE_BYTES):
                yield blob.read(_PIECE_BYTES)

    def _unknown_codec(self, digest: str, codec: object) -> NewerStoreError:
        return NewerStoreError(
            f"chunk `{digest[:12]}` of `{self.node}` has codec `{codec}`, "
            f"this version reads `{RAW_CODEC}`",
            hint="pip install --upgrade opsdash",
        )

    def _absent(
        self, round_num: int, spec: ChunkSpec
    ) -> MissingChunkError | NoSuchRoundError:
        if not self._has_round(round_num):
            return NoSuchRoundError(
                f"round {round_num} of `{self.node}` was pruned while it was read"
            )
        return self._missing(_place_in(self.node, round_num, spec))

    def _has_round(self, round_num: int) -> bool:
        with translated(self.path):
            query = "SELECT 1 FROM rounds WHERE round_num = ?"
            return self.conn.execute(query, (round_num,)).fetchone() is not None

    def _missing(self, place: ChunkPlace) -> MissingChunkError:
        sources = find_elsewhere(self.path, place.digest)
        return MissingChunkError(place, "is missing", sources, run_dir_of(self.path))

    def _damaged(self, place: ChunkPlace) -> DamagedChunkError:
        self.suspects.add(place.digest)
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
