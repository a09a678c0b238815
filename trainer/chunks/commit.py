"""Write one round in one transaction, the row in `rounds` last.

Order inside: rows of the new round, then retention, then blobs. Retention
thus knows what the new round still needs, and blobs take the pages that the
dropped rounds leave.
"""

import sqlite3
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from agent.rundir.chunks.errors import (
    ChunkPlace,
    MissingChunkError,
    RoundExistsError,
)
from agent.rundir.chunks.layout import RoundLayout
from agent.rundir.chunks.records import encode_json, encode_parts
from agent.rundir.chunks.sources import find_elsewhere, run_dir_of
from trainer.chunks.cut import Pieces
from trainer.chunks.database import check_room
from trainer.chunks.retention import drop_unused, forget_round, rounds_beyond

_MAX_VARIABLES = 500


@dataclass(frozen=True)
class NewRound:
    """A round to be written."""

    round_num: int
    layout: RoundLayout
    pieces: Mapping[str, Pieces] = field(default_factory=dict)
    """Bytes by digest; those that the store holds may be left out."""
    nonfinite: tuple[str, ...] = ()
    members: Sequence[str] | None = None
    state: Mapping[str, bytes] = field(default_factory=dict)
    keep_rounds: int | None = None
    """None: every round is kept."""
    replace: bool = False


@dataclass(frozen=True, slots=True)
class Written:
    """What the transaction did."""

    num_new: int
    new_bytes: int
    pruned: tuple[int, ...]


def write_round(
    conn: sqlite3.Connection, path: Path, node: str, new: NewRound
) -> Written:
    """Write a round inside an open transaction.

    A round that is there already with the same digest is left as it is.

    Raises:
        RoundExistsError: it is there with another digest.
        MissingChunkError: neither the store nor `pieces` has a chunk.
        StoreFullError: it does not fit on the disk.
        sqlite3.Error: from SQLite.
    """
    digest = new.layout.digest()
    existing = _existing_digest(conn, new.round_num)
    write_state(conn, new.state)
    if existing == digest:
        return Written(0, 0, ())
    if existing is not None and not new.replace:
        raise RoundExistsError(
            f"`{node}` already holds round {new.round_num} with digest "
            f"`{existing[:12]}`, not `{digest[:12]}`"
        )
    sizes = {chunk.digest: chunk.size_bytes for chunk in new.layout.chunks}
    fresh = sizes.keys() - known_digests(conn, "chunk_metadata", sizes)
    unused = forget_round(conn, new.round_num)
    _insert_rows(conn, new)
    pruned = _rounds_to_drop(conn, new)
    for round_num in pruned:
        unused |= forget_round(conn, round_num)
    drop_unused(conn, unused | _unstage(conn, new.round_num))
    absent = sizes.keys() - known_digests(conn, "chunk_data", sizes)
    check_room(conn, path, sum(sizes[digest] for digest in absent))
    _insert_blobs(conn, path, node, new, absent)
    new_bytes = sum(sizes[digest] for digest in fresh)
    _insert_round(conn, new, digest, new_bytes)
    return Written(len(fresh), new_bytes, tuple(pruned))


def write_state(conn: sqlite3.Connection, state: Mapping[str, bytes]) -> None:
    """Set values of `node_state` inside an open transaction.

    Raises:
        sqlite3.Error: from SQLite.
    """
    conn.executemany("INSERT OR REPLACE INTO node_state VALUES (?, ?)", state.items())


def _existing_digest(conn: sqlite3.Connection, round_num: int) -> str | None:
    row = conn.execute(
        "SELECT digest FROM rounds WHERE round_num = ?", (round_num,)
    ).fetchone()
    return None if row is None else str(row[0])


def known_digests(
    conn: sqlite3.Connection, table: str, digests: Collection[str]
) -> set[str]:
    """Return which of the digests a table names.

    Raises:
        sqlite3.Error: from SQLite.
    """
    wanted = list(digests)
    known: set[str] = set()
    for start in range(0, len(wanted), _MAX_VARIABLES):
        page = wanted[start : start + _MAX_VARIABLES]
        marks = ",".join("?" * len(page))
        query = f"SELECT DISTINCT chunk_hash FROM {table} WHERE chunk_hash IN ({marks})"  # noqa: S608 - a table's name and question marks
        known.update(row[0] for row in conn.execute(query, page))
    return known


def _rounds_to_drop(conn: sqlite3.Connection, new: NewRound) -> list[int]:
    if new.keep_rounds is None:
        return []
    # The new round has no row yet, and is one of those to keep.
    return rounds_beyond(conn, new.keep_rounds - 1)


def _unstage(conn: sqlite3.Connection, round_num: int) -> set[str]:
    """Stop waiting for rounds up to this one; return what was received."""
    rows = conn.execute(
        "SELECT chunk_hash FROM staged_chunks WHERE round_num <= ?", (round_num,)
    )
    digests = {row[0] for row in rows}
    conn.execute("DELETE FROM staged_chunks WHERE round_num <= ?", (round_num,))
    return digests


def _insert_rows(conn: sqlite3.Connection, new: NewRound) -> None:
    conn.executemany(
        "INSERT INTO tensors VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", _tensor_rows(new)
    )
    conn.executemany(
        "INSERT INTO chunk_metadata VALUES (?, ?, ?, ?, ?, ?)", _chunk_rows(new)
    )


def _tensor_rows(new: NewRound) -> Iterator[tuple[object, ...]]:
    for position, row in enumerate(new.layout.tensors):
        yield (
            new.round_num,
            position,
            row.name,
            row.kind,
            row.dtype,
            encode_json(row.shape),
            row.item_bytes,
            row.num_bytes,
            row.alias_of,
            row.quantizer,
        )


def _chunk_rows(new: NewRound) -> Iterator[tuple[object, ...]]:
    for chunk in new.layout.chunks:
        yield (
            new.round_num,
            chunk.chunk_id,
            chunk.digest,
            encode_parts(chunk.parts),
            sum(part.flat_end - part.flat_start for part in chunk.parts),
            chunk.size_bytes,
        )


def _insert_blobs(
    conn: sqlite3.Connection,
    path: Path,
    node: str,
    new: NewRound,
    absent: Collection[str],
) -> None:
    missing = set(absent)
    for chunk in new.layout.chunks:
        if chunk.digest not in missing:
            continue
        missing.remove(chunk.digest)
        pieces = new.pieces.get(chunk.digest)
        if pieces is None:
            names = tuple(part.name for part in chunk.parts)
            place = ChunkPlace(node, new.round_num, chunk.chunk_id, names, chunk.digest)
            sources = find_elsewhere(path, chunk.digest)
            raise MissingChunkError(
                place, "was never received", sources, run_dir_of(path)
            )
        insert_blob(conn, chunk.digest, chunk.dtype, pieces)


def insert_blob(
    conn: sqlite3.Connection, digest: str, dtype: str, pieces: Sequence[memoryview]
) -> None:
    """Write a chunk's bytes inside an open transaction.

    Raises:
        sqlite3.Error: from SQLite.
    """
    data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
    conn.execute(
        "INSERT INTO chunk_data (chunk_hash, dtype, data) VALUES (?, ?, ?)",
        (digest, dtype, data),
    )


def _insert_round(
    conn: sqlite3.Connection, new: NewRound, digest: str, new_bytes: int
) -> None:
    layout = new.layout
    members = None if new.members is None else encode_json(list(new.members))
    conn.execute(
        "INSERT INTO rounds VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            new.round_num,
            time.time_ns(),
            digest,
            layout.split,
            len(layout.chunks),
            layout.num_bytes,
            new_bytes,
            len(layout.tensors),
            encode_json(list(new.nonfinite)),
            members,
            layout.optimizer,
        ),
    )
