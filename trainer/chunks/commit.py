"""Write one round in one transaction, the row in `rounds` last.

Blobs are written while later ones are still being hashed; old chunks go
meanwhile, and the new ones take their pages.
"""

import sqlite3
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from agent.rundir.chunks.errors import (
    ChunkPlace,
    DamagedChunkError,
    MissingChunkError,
    RoundExistsError,
    StoreFullError,
)
from agent.rundir.chunks.layout import BadLayoutError
from agent.rundir.chunks.records import ChunkSpec, encode_json
from agent.rundir.chunks.schema import RAW_CODEC
from agent.rundir.chunks.sources import find_elsewhere, run_dir_of
from trainer.chunks.copies import Copies, Copy
from trainer.chunks.cut import Pieces, RoundContent
from trainer.chunks.database import check_room, log_of
from trainer.chunks.hints import WriteBehind
from trainer.chunks.layout_rows import insert_rows
from trainer.chunks.retention import Leaving, drop_unused, rounds_beyond

_MAX_VARIABLES = 500


@dataclass(frozen=True)
class NewRound:
    """A round to be written."""

    round_num: int
    content: RoundContent
    nonfinite: tuple[str, ...] = ()
    members: Sequence[str] | None = None
    state: Mapping[str, bytes] = field(default_factory=dict)
    keep_rounds: int | None = None
    """None: every round is kept."""
    replace: bool = False


@dataclass(frozen=True, slots=True)
class Written:
    """What the transaction did."""

    digest: str
    num_new: int
    new_bytes: int
    pruned: tuple[int, ...]
    mended: tuple[ChunkSpec, ...]
    """Chunks whose copy was not sound until now."""


@dataclass
class _Blobs:
    """What became of a round's chunks."""

    fresh: dict[str, int] = field(default_factory=dict)
    """Size by digest of what no round held."""
    mended: list[ChunkSpec] = field(default_factory=list)
    """What was here, and not sound."""


@dataclass
class _Destination:
    """Where a round is being written to."""

    conn: sqlite3.Connection
    path: Path
    node: str


def write_round(
    conn: sqlite3.Connection, path: Path, node: str, new: NewRound
) -> Written:
    """Write a round inside an open transaction.

    A round that is there already with the same digest is left as it is, but
    for chunks whose bytes have been lost or damaged since. No round refers to
    bytes that were not looked at, whoever put them in.

    Raises:
        RoundExistsError: it is there with another digest.
        MissingChunkError: neither the store nor the content has a chunk.
        DamagedChunkError: the store's copy is damaged, the content has none.
        BadLayoutError: a received layout contradicts the chunks it names.
        DamagedStoreError: SQLite cannot read the store's copy.
        StoreFullError: it does not fit on the disk.
        sqlite3.Error: from SQLite.
    """
    write_state(conn, new.state)
    existing = _existing_digest(conn, new.round_num)
    if existing is not None:
        digest = new.content.layout().digest()
        if existing == digest:
            return _put_right(_Destination(conn, path, node), new, existing)
        if not new.replace:
            raise RoundExistsError(
                f"`{node}` already holds round {new.round_num} with digest "
                f"`{existing[:12]}`, not `{digest[:12]}`"
            )
    pruned = _rounds_to_drop(conn, new)
    leaving = Leaving(conn, [*pruned, new.round_num])
    staged = _unstage(conn, new.round_num)
    _check_room(conn, path, new.content, leaving)
    blobs = _write_blobs(_Destination(conn, path, node), new, leaving, staged)
    layout = new.content.layout()
    leaving.drop_rest()
    insert_rows(conn, new.round_num, layout)
    drop_unused(conn, staged)
    digest = layout.digest()
    new_bytes = sum(blobs.fresh.values())
    _insert_round(conn, new, digest, new_bytes)
    return Written(
        digest, len(blobs.fresh), new_bytes, tuple(pruned), tuple(blobs.mended)
    )


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
    # The new round may have no row yet, and is one of those to keep.
    return rounds_beyond(conn, new.keep_rounds - 1, besides=new.round_num)


def _unstage(conn: sqlite3.Connection, round_num: int) -> set[str]:
    """Stop waiting for rounds up to this one; return what was received."""
    rows = conn.execute(
        "SELECT chunk_hash FROM staged_chunks WHERE round_num <= ?", (round_num,)
    )
    digests = {row[0] for row in rows}
    conn.execute("DELETE FROM staged_chunks WHERE round_num <= ?", (round_num,))
    return digests


def _check_room(
    conn: sqlite3.Connection, path: Path, content: RoundContent, leaving: Leaving
) -> None:
    """Refuse early what cannot fit; wait for digests only if it is close."""
    try:
        check_room(conn, path, content.size_bytes())
    except StoreFullError:
        sizes = {c.digest: c.size_bytes for c in content.layout().chunks}
        absent = sizes.keys() - known_digests(conn, "chunk_data", sizes)
        new_bytes = sum(sizes[digest] for digest in absent)
        check_room(conn, path, new_bytes, reusable=leaving.num_bytes())


def _put_right(to: _Destination, new: NewRound, digest: str) -> Written:
    """Write what a round that is there has lost since."""
    blobs = _write_blobs(to, new, Leaving(to.conn, ()), ())
    lost = [c for c in new.content.layout().chunks if c.digest in blobs.fresh]
    return Written(digest, 0, 0, (), (*blobs.mended, *lost))


def _write_blobs(
    to: _Destination, new: NewRound, leaving: Leaving, staged: Collection[str]
) -> _Blobs:
    """Write what is not there, and what is not as it should be."""
    blobs = _Blobs()
    with WriteBehind(log_of(to.path)) as behind:
        for spec, pieces in new.content.iter_chunks():
            leaving.keep(spec.digest)
            if spec.digest in blobs.fresh:
                continue
            copy = _look_at_copy(to, new.round_num, spec, pieces)
            if copy is Copy.ABSENT:
                leaving.make_room(spec.chunk_id)
            if copy is not Copy.SOUND and pieces is not None:
                write_blob(to.conn, spec.digest, spec.dtype, pieces)
                behind.wrote(spec.size_bytes)
            if copy is Copy.ABSENT or _is_only_staged(to.conn, spec.digest, staged):
                blobs.fresh[spec.digest] = spec.size_bytes
            elif copy is not Copy.SOUND:
                blobs.mended.append(spec)
    return blobs


def _look_at_copy(
    to: _Destination, round_num: int, spec: ChunkSpec, pieces: Pieces | None
) -> Copy:
    """Return what the store has of a chunk; without bytes for it, only `SOUND`.

    Raises:
        BadLayoutError: a layout from elsewhere gives it another dtype or size.
        MissingChunkError, DamagedChunkError: it was received and is not here.
    """
    copies = Copies(to.conn, to.path)
    if pieces is not None:
        return copies.compare(spec.digest, spec.dtype, pieces)
    copy = copies.check(spec.digest, spec.dtype, spec.size_bytes)
    if copy is Copy.OF_ANOTHER_KIND:
        raise BadLayoutError(f"chunk {spec.chunk_id} is not of the dtype or size given")
    if copy is not Copy.SOUND:
        raise _not_here(to, round_num, spec, copy)
    return copy


def _is_only_staged(
    conn: sqlite3.Connection, digest: str, staged: Collection[str]
) -> bool:
    return digest in staged and not known_digests(conn, "chunk_metadata", (digest,))


def _not_here(
    to: _Destination, round_num: int, spec: ChunkSpec, copy: Copy
) -> MissingChunkError | DamagedChunkError:
    names = tuple(part.name for part in spec.parts)
    place = ChunkPlace(to.node, round_num, spec.chunk_id, names, spec.digest)
    sources, run_dir = find_elsewhere(to.path, spec.digest), run_dir_of(to.path)
    if copy is Copy.ABSENT:
        return MissingChunkError(place, "was never received", sources, run_dir)
    return DamagedChunkError(place, "does not have its SHA-256", sources, run_dir)


def write_blob(
    conn: sqlite3.Connection, digest: str, dtype: str, pieces: Sequence[memoryview]
) -> None:
    """Write a chunk's bytes inside an open transaction, over a damaged copy too.

    Raises:
        sqlite3.Error: from SQLite.
    """
    data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
    conn.execute(
        """INSERT INTO chunk_data (chunk_hash, dtype, codec, base, data)
           VALUES (?, ?, ?, NULL, ?)
           ON CONFLICT (chunk_hash) DO UPDATE SET dtype = excluded.dtype,
           codec = excluded.codec, base = NULL, data = excluded.data""",
        (digest, dtype, RAW_CODEC, data),
    )


def _insert_round(
    conn: sqlite3.Connection, new: NewRound, digest: str, new_bytes: int
) -> None:
    layout = new.content.layout()
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
