"""Put damaged and missing chunks right, from whoever holds the same bytes.

A chunk is taken only if its bytes have the digest, wherever they come from;
what is put in is therefore what was lost. Everything found is written in one
transaction. Chunks that nobody has are named, not guessed.
"""

import sqlite3
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
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
    if found or useless:
        refused = _write(path, [payload for payload, _ in found.values()], useless)
        found = {d: chunk for d, chunk in found.items() if d not in refused}
    return RepairReport(
        repaired=tuple(
            RepairedChunk(f, found[f.place.digest][1])
            for f in needed
            if f.place.digest in found
        ),
        left=tuple(f for f in needed if f.place.digest not in found),
        num_dropped=len(useless),
    )


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
) -> set[str]:
    """Write all at once; where SQLite refuses that, one by one.

    Returns:
        Digests of the chunks whose place in the file is itself damaged.
    """
    conn = open_database(path, node_of(path))
    refused: set[str] = set()
    try:
        check_room(conn, path, sum(len(payload.data) for payload in payloads))
        try:
            _replace(conn, path, payloads, useless)
        except (DamagedStoreError, StoreFullError):
            # Full, though there is room, is what a page number beyond the
            # largest possible looks like to SQLite.
            for payload in payloads:
                try:
                    _replace(conn, path, [payload], ())
                except (DamagedStoreError, StoreFullError):
                    refused.add(payload.digest)
        fold_log(conn, path)
    finally:
        conn.close()
    return refused


def _replace(
    conn: sqlite3.Connection,
    path: Path,
    payloads: Sequence[Payload],
    useless: Collection[str],
) -> None:
    with transaction(conn, path):
        conn.executemany(
            """INSERT INTO chunk_data (chunk_hash, dtype, codec, base, data)
               VALUES (?, ?, 'raw', NULL, ?)
               ON CONFLICT (chunk_hash) DO UPDATE SET dtype = excluded.dtype,
               codec = excluded.codec, base = NULL, data = excluded.data""",
            ((p.digest, p.dtype, p.data) for p in payloads),
        )
        for table in ("chunk_data", "staged_chunks"):
            conn.executemany(
                f"DELETE FROM {table} WHERE chunk_hash = ?",  # noqa: S608 - names above
                ((digest,) for digest in useless),
            )
