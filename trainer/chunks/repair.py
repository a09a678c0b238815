"""Put damaged and missing chunks right, from whoever holds the same bytes.

A chunk is taken only if its bytes have the digest, wherever they come from;
what is put in is therefore what was lost. Everything found is written in one
transaction, which asks again who needs it: a writer that is alive may have
pruned a round meanwhile, or put one. Chunks that nobody has are named, not
guessed.
"""

import contextlib
import sqlite3
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from agent.rundir.chunks.errors import ChunkError, DamagedStoreError, StoreFullError
from agent.rundir.chunks.payload import Payload
from agent.rundir.chunks.reader import ChunkStoreReader
from agent.rundir.chunks.sources import node_of, sibling_stores
from agent.rundir.chunks.verify import (
    Finding,
    IsCancelled,
    Progress,
    StoreFinding,
    StoreReport,
)
from agent.rundir.errors import RunDirError
from trainer.chunks.database import (
    check_room,
    fold_log,
    open_database,
    transaction,
)

_PUT_IN = """INSERT INTO chunk_data (chunk_hash, dtype, codec, base, data)
    SELECT ?1, ?2, 'raw', NULL, ?3
    WHERE EXISTS (SELECT 1 FROM chunk_metadata WHERE chunk_hash = ?1)
    ON CONFLICT (chunk_hash) DO UPDATE SET dtype = excluded.dtype,
    codec = excluded.codec, base = NULL, data = excluded.data"""
_DROP = """DELETE FROM chunk_data WHERE chunk_hash = ?1
    AND NOT EXISTS (SELECT 1 FROM chunk_metadata WHERE chunk_hash = ?1)"""


@dataclass(frozen=True, slots=True)
class RepairedChunk:
    """One chunk that was put right."""

    finding: StoreFinding
    """What was wrong with it."""
    taken_from: Path
    """The store that had it."""

    @property
    def digest(self) -> str:
        """Of the chunk."""
        return self.finding.place.digest


@dataclass(frozen=True, slots=True)
class RepairReport:
    """What a repair did."""

    repaired: tuple[RepairedChunk, ...]
    left: tuple[StoreFinding, ...]
    """What nobody could help with."""
    num_dropped: int = 0
    """Damaged chunks that no round names: they were deleted."""


def repair_store(
    path: Path,
    sources: Iterable[Path] | None = None,
    progress: Progress | None = None,
    is_cancelled: IsCancelled | None = None,
) -> RepairReport:
    """Verify a store and mend what can be mended.

    Args:
        path: the store to mend; who writes to it meanwhile waits for a moment.
        sources: stores to take chunks from; by default those of the other
            nodes of the same run.
        progress: called with bytes verified and bytes in all.
        is_cancelled: asked after each chunk; nothing is written then.

    Raises:
        StoreLockedError: somebody writes to the store for too long.
        StoreFullError: there is no room; nothing was changed.
        RunDirError: the store as a whole cannot be read.
    """
    report = _verify(path, progress, is_cancelled)
    if any(f.finding is Finding.BAD_STRUCTURE for f in report.findings):
        _rebuild_indexes(path)
        report = _verify(path, progress, is_cancelled)
    if report.was_cancelled or not report.findings:
        return RepairReport((), report.findings)
    useless = {f.place.digest for f in report.findings if _is_useless(f)}
    needed = [f for f in report.findings if f.place.digest not in useless]
    found = _collect(needed, _sources(path, sources))
    done = _Written()
    if found or useless:
        done = _write(path, [payload for payload, _ in found.values()], useless)
    return RepairReport(
        repaired=tuple(
            RepairedChunk(f, found[f.place.digest][1])
            for f in needed
            if f.place.digest in done.mended
        ),
        left=tuple(f for f in needed if f.place.digest not in done.settled),
        num_dropped=done.num_dropped,
    )


@dataclass
class _Written:
    """What became of the chunks that were to be written or deleted."""

    mended: set[str] = field(default_factory=set)
    unneeded: set[str] = field(default_factory=set)
    """No round names them any more."""
    num_dropped: int = 0

    @property
    def settled(self) -> set[str]:
        """Digests that nothing is wrong with any more."""
        return self.mended | self.unneeded


def _verify(
    path: Path, progress: Progress | None, is_cancelled: IsCancelled | None
) -> StoreReport:
    with ChunkStoreReader(path) as reader:
        return reader.verify(progress, is_cancelled)


def _rebuild_indexes(path: Path) -> None:
    conn = open_database(path, node_of(path))
    try:
        with transaction(conn, path):
            conn.execute("REINDEX")
    except DamagedStoreError:
        return  # the tables themselves are damaged: mend what can be read
    finally:
        conn.close()


def _is_useless(finding: StoreFinding) -> bool:
    return finding.finding is Finding.DAMAGED and not finding.rounds


def _sources(path: Path, sources: Iterable[Path] | None) -> list[Path]:
    if sources is not None:
        return list(sources)
    return [other for _, other in sibling_stores(path)]


def _collect(
    findings: Sequence[StoreFinding], sources: Sequence[Path]
) -> dict[str, tuple[Payload, Path]]:
    """Return sound copies by digest, and where each came from."""
    wanted = {f.place.digest for f in findings if f.finding is not Finding.BAD_ROUND}
    wanted.discard("")
    found: dict[str, tuple[Payload, Path]] = {}
    for source in sources:
        for payload in _held_by(source, wanted - found.keys()):
            found[payload.digest] = payload, source
    return found


def _held_by(source: Path, digests: set[str]) -> Iterator[Payload]:
    if not digests:
        return
    try:
        reader = ChunkStoreReader(source)
    except RunDirError:
        return  # a store that cannot be read has nothing to give
    with reader:
        for digest in sorted(reader.has(digests)):
            try:
                yield reader.get_chunk(digest)
            except (ChunkError, DamagedStoreError):
                continue  # its copy is damaged too


def _write(
    path: Path, payloads: Sequence[Payload], useless: Collection[str]
) -> _Written:
    """Write all at once; where SQLite refuses that, one by one.

    A chunk whose place in the file is itself damaged is left as it is.
    """
    conn = open_database(path, node_of(path))
    try:
        check_room(conn, path, sum(len(payload.data) for payload in payloads))
        try:
            done = _replace(conn, path, payloads, useless)
        except (DamagedStoreError, StoreFullError):
            # Full, though there is room, is what a page number beyond the
            # largest possible looks like to SQLite.
            done = _replace_one_by_one(conn, path, payloads)
        fold_log(conn, path)
    finally:
        conn.close()
    return done


def _replace_one_by_one(
    conn: sqlite3.Connection, path: Path, payloads: Sequence[Payload]
) -> _Written:
    done = _Written()
    for payload in payloads:
        with contextlib.suppress(DamagedStoreError, StoreFullError):
            one = _replace(conn, path, [payload], ())
            done.mended |= one.mended
            done.unneeded |= one.unneeded
    return done


def _replace(
    conn: sqlite3.Connection,
    path: Path,
    payloads: Sequence[Payload],
    useless: Collection[str],
) -> _Written:
    done = _Written()
    with transaction(conn, path):
        for payload in payloads:
            row = (payload.digest, payload.dtype, payload.data)
            is_needed = conn.execute(_PUT_IN, row).rowcount > 0
            (done.mended if is_needed else done.unneeded).add(payload.digest)
        for digest in useless:
            done.num_dropped += conn.execute(_DROP, (digest,)).rowcount
            conn.execute("DELETE FROM staged_chunks WHERE chunk_hash = ?", (digest,))
    return done
