"""Look into one node's chunk store without changing it, and without torch.

The writer may be alive: every call is one short read transaction, so it never
waits for a reader. A reader belongs to one thread at a time.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Self

from agent.rundir.chunks.connection import open_readonly, reading
from agent.rundir.chunks.errors import translated
from agent.rundir.chunks.lanes import for_all, iter_results
from agent.rundir.chunks.layout import RoundLayout
from agent.rundir.chunks.payload import Payload, PayloadReader, Take
from agent.rundir.chunks.records import Buffer, ChunkRow, ChunkSpec, RoundRow
from agent.rundir.chunks.rows import (
    select_chunks,
    select_layout,
    select_round,
    select_rounds,
)
from agent.rundir.chunks.sources import node_of
from agent.rundir.chunks.verify import (
    Finding,
    IsCancelled,
    Progress,
    StoreReport,
    verify_store,
)

_EVERYTHING = 1 << 62
_MAX_KEPT_CHUNKS = 10_000
"""Of a layout that is kept for the next call: 10 MB."""
_MAX_VARIABLES = 500
"""SQLite builds from before 2020 take 999 in one statement."""


@dataclass(frozen=True, slots=True)
class StoreStats:
    """How much a store holds, and how much of the disk it takes."""

    num_rounds: int
    num_chunk_rows: int
    """Chunks of all rounds, shared ones counted as often as they occur."""
    num_unique_chunks: int
    round_bytes: int
    """Bytes of all rounds, shared ones counted as often as they occur."""
    unique_bytes: int
    """Bytes that are kept once each."""
    file_bytes: int
    """Database and write-ahead log on disk."""


class ChunkStoreReader:
    """Rounds and chunks of one store; use it in a `with` statement."""

    def __init__(self, path: Path, suspects: set[str] | None = None) -> None:
        """Open the store at `path`.

        Args:
            path: the database.
            suspects: digests known to be damaged; what this reader finds is
                added. None: none is known.

        Raises:
            NotAChunkStoreError: missing, empty, or not a store.
            ForeignStoreError: written by the original ChunkManager.
            NewerStoreError: written by a newer version.
            StoreLockedError: another process locks it for too long.
            DamagedStoreError: SQLite cannot read it.
        """
        self.path = path
        self._file_id = file_id(path)
        self._conn = open_readonly(path)
        try:
            self.node = self._read_node()
        except BaseException:
            self._conn.close()
            raise
        known = set() if suspects is None else suspects
        self._payloads = PayloadReader(self._conn, path, self.node, suspects=known)
        self._report: StoreReport | None = None
        self._kept: tuple[int, int, RoundLayout] | None = None
        """The layout that was read last: its round, and the state of the store then."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file; closing twice is fine."""
        self._payloads.close()

    @property
    def is_of_this_file(self) -> bool:
        """Whether the file at the path is still the one that was opened."""
        return self._file_id is not None and self._file_id == file_id(self.path)

    @property
    def num_rounds(self) -> int:
        """How many rounds the store holds now.

        Raises:
            RunDirError: the store cannot be read.
        """
        with translated(self.path):
            row = self._conn.execute("SELECT count(*) FROM rounds").fetchone()
        return int(row[0])

    def rounds(self) -> list[RoundRow]:
        """Return all rounds, oldest first.

        Raises:
            RunDirError: the store cannot be read.
        """
        with translated(self.path):
            rows = select_rounds(self._conn, self.path)
        return [self._with_findings(row) for row in rows]

    def round(self, round_num: int) -> RoundRow:
        """Return one round.

        Raises:
            NoSuchRoundError: the store does not hold it.
            RunDirError: the store cannot be read.
        """
        with reading(self._conn, self.path):
            row = select_round(self._conn, self.path, round_num)
        return self._with_findings(row)

    def chunks(
        self, round_num: int, start: int = 0, count: int | None = None
    ) -> list[ChunkRow]:
        """Return chunks of a round by position: `count` of them from `start`.

        Chunk ids run from 0 without gaps, so a table of a million rows asks
        for the ones on the screen.

        Raises:
            NoSuchRoundError: the store does not hold the round.
            RunDirError: the store cannot be read.
        """
        limit = _EVERYTHING if count is None else count
        with reading(self._conn, self.path):
            select_round(self._conn, self.path, round_num)
            rows = select_chunks(self._conn, self.path, round_num, start, limit)
        damaged = self._damaged_digests()
        if damaged is None:
            return rows
        return [replace(row, is_damaged=row.digest in damaged) for row in rows]

    def layout(self, round_num: int) -> RoundLayout:
        """Return everything of a round but its bytes, checked.

        Raises:
            NoSuchRoundError: the store does not hold the round.
            DamagedStoreError: its rows are not those that were written.
        """
        with reading(self._conn, self.path):
            # Changes whenever somebody commits, and is had at a hundredth of the cost.
            state = self._conn.execute("PRAGMA data_version").fetchone()[0]
            if self._kept is not None and self._kept[:2] == (round_num, state):
                return self._kept[2]
            layout = select_layout(self._conn, self.path, round_num)
        is_small = len(layout.chunks) <= _MAX_KEPT_CHUNKS
        self._kept = (round_num, state, layout) if is_small else None
        return layout

    def stats(self) -> StoreStats:
        """Return counts and sizes.

        Raises:
            RunDirError: the store cannot be read.
        """
        with reading(self._conn, self.path):
            rounds = self._conn.execute(
                """SELECT count(*), coalesce(sum(num_chunks), 0),
                          coalesce(sum(num_bytes), 0) FROM rounds"""
            ).fetchone()
            unique = self._conn.execute(
                "SELECT count(*), coalesce(sum(length(data)), 0) FROM chunk_data"
            ).fetchone()
        return StoreStats(
            num_rounds=rounds[0],
            num_chunk_rows=rounds[1],
            num_unique_chunks=unique[0],
            round_bytes=rounds[2],
            unique_bytes=unique[1],
            file_bytes=file_bytes(self.path),
        )

    def state(self, key: str) -> bytes | None:
        """Return a value that the node committed beside its rounds, or None.

        Raises:
            RunDirError: the store cannot be read.
        """
        with translated(self.path):
            row = self._conn.execute(
                "SELECT value FROM node_state WHERE key = ?", (key,)
            ).fetchone()
        return None if row is None else bytes(row[0])

    def has(self, digests: Iterable[str]) -> set[str]:
        """Return which of the chunks are there and not known to be damaged.

        Bytes are read of those only that were damaged when they were last
        looked at, by a read or by `verify`.

        Raises:
            RunDirError: the store cannot be read.
        """
        wanted = list(dict.fromkeys(digests))
        found: set[str] = set()
        with reading(self._conn, self.path):
            for start in range(0, len(wanted), _MAX_VARIABLES):
                page = wanted[start : start + _MAX_VARIABLES]
                marks = ",".join("?" * len(page))
                query = (
                    f"SELECT chunk_hash FROM chunk_data WHERE chunk_hash IN ({marks})"  # noqa: S608 - question marks only
                )
                found.update(row[0] for row in self._conn.execute(query, page))
        return self._payloads.without_damaged(found)

    def get_chunk(self, digest: str) -> Payload:
        """Return one chunk, checked.

        Raises:
            MissingChunkError, DamagedChunkError: naming where it belongs and
                who else holds it.
            RunDirError: the store cannot be read.
        """
        return self._payloads.get(digest)

    def iter_chunks(
        self, round_num: int, specs: Iterable[ChunkSpec]
    ) -> Iterator[tuple[ChunkSpec, Buffer]]:
        """Yield the bytes of a round's chunks in order, each one checked.

        Raises:
            MissingChunkError, DamagedChunkError: naming the chunk.
            NoSuchRoundError: the round was pruned while it was read.
        """

        def get(lane: PayloadReader, spec: ChunkSpec) -> Buffer:
            return lane.get_of_round(round_num, spec)

        sized = [(spec, spec.size_bytes) for spec in specs]
        yield from iter_results(self._payloads, get, sized, _total_bytes(sized))

    def deliver(
        self,
        round_num: int,
        specs: Sequence[ChunkSpec],
        taker: Callable[[ChunkSpec], Take],
    ) -> None:
        """Hand a round's chunks over, piece by piece, on several threads.

        What was handed over counts only when this returns.

        Args:
            round_num: which round.
            specs: which of its chunks.
            taker: returns what takes the pieces of one chunk; chunks come on
                different threads, the pieces of one in order.

        Raises:
            MissingChunkError, DamagedChunkError: naming the first chunk.
            NoSuchRoundError: the round was pruned while it was read.
        """

        def deliver(lane: PayloadReader, spec: ChunkSpec) -> None:
            lane.deliver(round_num, spec, taker(spec))

        for_all(self._payloads, deliver, specs, sum(spec.size_bytes for spec in specs))

    def verify(
        self,
        progress: Progress | None = None,
        is_cancelled: IsCancelled | None = None,
    ) -> StoreReport:
        """Read every byte again; rows returned later carry what was found.

        A verification that is cancelled says nothing about what it left out,
        so it leaves the rows as they were.

        Args:
            progress: called with bytes read and bytes in all.
            is_cancelled: asked after each chunk.

        Raises:
            RunDirError: the store as a whole cannot be read.
        """
        report = verify_store(self._payloads, progress, is_cancelled)
        self._payloads.suspects.update(_damaged_in(report))
        if not report.was_cancelled:
            self._report = report
        return report

    def _read_node(self) -> str:
        with translated(self.path):
            row = self._conn.execute(
                "SELECT value FROM store_info WHERE key = 'node'"
            ).fetchone()
        return node_of(self.path) if row is None else str(row[0])

    def _with_findings(self, row: RoundRow) -> RoundRow:
        if self._report is None:
            return row
        here = [f for f in self._report.findings if row.round_num in f.rounds]
        num_missing = sum(f.finding is Finding.MISSING for f in here)
        return replace(
            row, num_damaged=len(here) - num_missing, num_missing=num_missing
        )

    def _damaged_digests(self) -> set[str] | None:
        return None if self._report is None else _damaged_in(self._report)


def _damaged_in(report: StoreReport) -> set[str]:
    """Return the digests whose copy is there, and not what it should be."""
    return {
        finding.place.digest
        for finding in report.findings
        if finding.finding in {Finding.DAMAGED, Finding.UNREADABLE}
    }


def _total_bytes(sized: Iterable[tuple[ChunkSpec, int]]) -> int:
    return sum(size for _, size in sized)


def file_id(path: Path) -> tuple[int, int] | None:
    """Return what tells a file from another under its name; None: it is gone."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def file_bytes(path: Path) -> int:
    """Return what a store takes on disk: database and write-ahead log."""
    total = 0
    for name in (path.name, f"{path.name}-wal"):
        try:
            total += path.with_name(name).stat().st_size
        except OSError:
            continue
    return total
