"""Read a whole store again and say what is wrong with it.

SQLite's own `integrity_check` finds 0 of 100 flipped bits in blobs. Here
every blob is hashed, every round's rows are held against its digest, every
chunk that a round names is looked for, and indexes are checked besides. A
finding is a value, never an exception, so that one damaged chunk does not
hide the next.
"""

import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from agent.rundir.chunks.connection import reading
from agent.rundir.chunks.errors import (
    ChunkPlace,
    DamagedStoreError,
    NewerStoreError,
    NoSuchRoundError,
    Source,
    translated,
)
from agent.rundir.chunks.lanes import iter_results
from agent.rundir.chunks.payload import Passed, PayloadReader, part_names
from agent.rundir.chunks.records import Buffer
from agent.rundir.chunks.rows import select_layout, select_rounds
from agent.rundir.chunks.sources import find_elsewhere

Progress = Callable[[int, int], None]
"""Called with bytes read so far and bytes in all."""
IsCancelled = Callable[[], bool]

_PAGE_ROWS = 512
_MAX_MESSAGES = 10
_PROGRESS_STEPS = 100_000
"""Of SQLite's virtual machine, between two questions whether to go on."""


class Finding(StrEnum):
    """What can be wrong."""

    DAMAGED = "damaged"
    """The bytes do not have their digest."""
    MISSING = "missing"
    """A round names a chunk that is not there."""
    UNREADABLE = "unreadable"
    """SQLite cannot read the chunk, or it is in a newer codec."""
    BAD_ROUND = "bad_round"
    """A round's rows are not those that were written."""
    BAD_STRUCTURE = "bad_structure"
    """An index does not fit its table: a chunk that is needed looks unused."""


@dataclass(frozen=True, slots=True)
class StoreFinding:
    """One thing that is wrong."""

    finding: Finding
    place: ChunkPlace
    """The newest round that the chunk belongs to."""
    rounds: tuple[int, ...]
    """All rounds that cannot be restored because of it."""
    elsewhere: tuple[Source, ...]
    """Who else says to hold the same bytes."""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class StoreReport:
    """What a verification saw."""

    node: str
    path: Path
    num_rounds: int
    num_chunks: int
    """Distinct chunks that were read."""
    num_bytes: int
    findings: tuple[StoreFinding, ...]
    was_cancelled: bool = False

    @property
    def is_sound(self) -> bool:
        """Whether everything was read and nothing is wrong."""
        return not self.findings and not self.was_cancelled


@dataclass
class _Tally:
    findings: list[StoreFinding]
    num_chunks: int = 0
    num_bytes: int = 0
    was_cancelled: bool = False


@dataclass
class StoreVerification:
    """One pass over one store."""

    payloads: PayloadReader
    progress: Progress
    is_cancelled: IsCancelled

    def run(self) -> StoreReport:
        """Verify rounds, then chunks, then what is missing.

        Raises:
            StoreLockedError, DamagedStoreError: the list of rounds cannot be
                read.
        """
        conn, path = self.payloads.conn, self.payloads.path
        with translated(path):
            rounds = [row.round_num for row in select_rounds(conn, path)]
        tally = _Tally(findings=[*self._round_findings(rounds)])
        try:
            tally.findings.extend(self._missing())
            tally.findings.extend(self._structure())
            self._read_all(tally)
        except DamagedStoreError as error:
            # What was found before still counts.
            tally.findings.append(self._of_store(Finding.UNREADABLE, str(error)))
        return StoreReport(
            node=self.payloads.node,
            path=path,
            num_rounds=len(rounds),
            num_chunks=tally.num_chunks,
            num_bytes=tally.num_bytes,
            findings=tuple(tally.findings),
            was_cancelled=tally.was_cancelled,
        )

    def _read_all(self, tally: _Tally) -> None:
        total_bytes = self._total_bytes()
        digests = ((digest, 0) for digest in self._iter_digests())
        for digest, seen in iter_results(self.payloads, _look_at, digests, total_bytes):
            if seen is None:
                continue  # pruned since the list was read
            if isinstance(seen, str):
                finding = self._finding(Finding.UNREADABLE, digest, seen)
                tally.findings.append(finding)
                continue
            tally.num_chunks += 1
            tally.num_bytes += seen.size_bytes
            if not seen.is_sound:
                tally.findings.append(self._finding(Finding.DAMAGED, digest))
            self.progress(tally.num_bytes, total_bytes)
            if self.is_cancelled():
                tally.was_cancelled = True
                return

    def _round_findings(self, rounds: list[int]) -> Iterator[StoreFinding]:
        conn, path = self.payloads.conn, self.payloads.path
        for round_num in rounds:
            try:
                with reading(conn, path):
                    select_layout(conn, path, round_num)
            except NoSuchRoundError:
                continue  # pruned since the list was read
            except DamagedStoreError as error:
                place = ChunkPlace(self.payloads.node, round_num, None, (), "")
                yield StoreFinding(
                    Finding.BAD_ROUND, place, (round_num,), (), str(error)
                )

    def _missing(self) -> Iterator[StoreFinding]:
        with translated(self.payloads.path):
            rows = self.payloads.conn.execute(
                """SELECT DISTINCT chunk_hash FROM chunk_metadata m WHERE NOT EXISTS
                   (SELECT 1 FROM chunk_data d WHERE d.chunk_hash = m.chunk_hash)"""
            ).fetchall()
        for (digest,) in rows:
            yield self._finding(Finding.MISSING, digest)

    def _structure(self) -> Iterator[StoreFinding]:
        conn = self.payloads.conn
        # Whoever cancels must not wait for a statement over the whole file.
        conn.set_progress_handler(self.is_cancelled, _PROGRESS_STEPS)
        try:
            with translated(self.payloads.path):
                rows = conn.execute(f"PRAGMA integrity_check({_MAX_MESSAGES})")
                messages = [str(row[0]) for row in rows]
        except DamagedStoreError:
            if self.is_cancelled():
                return
            raise
        finally:
            conn.set_progress_handler(None, 0)
        for message in messages:
            if message != "ok":
                yield self._of_store(Finding.BAD_STRUCTURE, message)

    def _of_store(self, finding: Finding, detail: str) -> StoreFinding:
        place = ChunkPlace(self.payloads.node, None, None, (), "")
        return StoreFinding(finding, place, (), (), detail)

    def _total_bytes(self) -> int:
        with translated(self.payloads.path):
            query = "SELECT coalesce(sum(length(data)), 0) FROM chunk_data"
            return int(self.payloads.conn.execute(query).fetchone()[0])

    def _iter_digests(self) -> Iterator[str]:
        """Yield every digest; pages keep each read transaction short."""
        last_rowid = -1
        while True:
            with translated(self.payloads.path):
                rows = self.payloads.conn.execute(
                    """SELECT rowid, chunk_hash FROM chunk_data WHERE rowid > ?
                       ORDER BY rowid LIMIT ?""",
                    (last_rowid, _PAGE_ROWS),
                ).fetchall()
            if not rows:
                return
            if rows[-1][0] <= last_rowid:
                # A damaged tree can lead back to where it came from.
                raise DamagedStoreError(
                    f"`{self.payloads.path}` cannot be read: its rows are out of order"
                )
            last_rowid = rows[-1][0]
            for _, digest in rows:
                yield digest

    def _finding(self, finding: Finding, digest: str, detail: str = "") -> StoreFinding:
        path, node = self.payloads.path, self.payloads.node
        rounds, place = _belongs_to(self.payloads.conn, path, node, digest)
        elsewhere = tuple(find_elsewhere(path, digest))
        return StoreFinding(finding, place, rounds, elsewhere, detail)


def _look_at(reader: PayloadReader, digest: str) -> Passed | str | None:
    """Read one chunk again; text: why it cannot be read."""
    try:
        return reader.pass_on(digest, _drop)
    except (DamagedStoreError, NewerStoreError) as error:
        return str(error)


def _drop(_at: int, _piece: Buffer) -> None:
    return


def _belongs_to(
    conn: sqlite3.Connection, path: Path, node: str, digest: str
) -> tuple[tuple[int, ...], ChunkPlace]:
    with translated(path):
        rows = conn.execute(
            """SELECT round_num, chunk_id, parts_info FROM chunk_metadata
               WHERE chunk_hash = ? ORDER BY round_num""",
            (digest,),
        ).fetchall()
    if not rows:
        return (), ChunkPlace(node, None, None, (), digest)
    round_num, chunk_id, parts_info = rows[-1]
    place = ChunkPlace(node, round_num, chunk_id, part_names(parts_info), digest)
    return tuple(dict.fromkeys(row[0] for row in rows)), place


def verify_store(
    payloads: PayloadReader,
    progress: Progress | None = None,
    is_cancelled: IsCancelled | None = None,
) -> StoreReport:
    """Read every byte of a store again.

    Raises:
        RunDirError: the store as a whole cannot be read.
    """
    verification = StoreVerification(
        payloads, progress or _ignore_progress, is_cancelled or _never
    )
    return verification.run()


def _ignore_progress(_done: int, _total: int) -> None:
    return


def _never() -> bool:
    return False
