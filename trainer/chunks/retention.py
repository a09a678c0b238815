"""Drop old rounds and the chunks that only they needed.

Inside the transaction of a new round, old chunks go while new ones are
written, so that the new ones take the old ones' pages and a store that keeps
five rounds stays as large as five. Chunks that were received for a round that
is still being fetched belong to no round yet and are kept until it is.
"""

import contextlib
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sqlite_utils import Database

from agent.rundir.chunks.errors import (
    StoreFullError,
    StoreLockedError,
    translated,
)
from agent.rundir.chunks.schema import PAGE_BYTES
from trainer.chunks.database import (
    count_pages,
    drop_ballast,
    fold_log,
    give_back_space,
    give_back_space_in_need,
    hurrying,
    keep_ballast,
    transaction,
)

DEFAULT_KEEP_ROUNDS = 5

_STEP_CHUNKS = 8
"""Chunks freed at once while the disk is full: each dirties a page or two."""

_FREE_FRAC = 0.05
"""Share of free pages above which the file is shrunk after a round."""

_WASTE_RATIO = 1.1
_NUM_TREES = 16
"""Tables and indexes, each of one page at least."""

_DROP_ORPHANS = """DELETE FROM chunk_data WHERE rowid IN (
    SELECT rowid FROM chunk_data d
    WHERE NOT EXISTS (SELECT 1 FROM chunk_metadata m
                      WHERE m.chunk_hash = d.chunk_hash)
      AND NOT EXISTS (SELECT 1 FROM staged_chunks s
                      WHERE s.chunk_hash = d.chunk_hash)
    LIMIT ?)"""


@dataclass(frozen=True, slots=True)
class PruneStats:
    """What a prune dropped."""

    rounds: tuple[int, ...]
    freed_bytes: int
    """By how much the file became smaller."""


def check_keep_rounds(keep_rounds: int | None) -> None:
    """Make sure that something is kept.

    Raises:
        ValueError: nothing would be.
    """
    if keep_rounds is not None and keep_rounds < 1:
        raise ValueError(f"keep_rounds is {keep_rounds}")


class Leaving:
    """Rounds that go, and the chunks that nobody else needs so far.

    Chunks go one by one while a new round is written, each when the new round
    has come to the same place: by then a chunk that did not change has been
    kept. One that comes back at a later place is simply written again. Rows go
    last, when those of the new round come: a page that is changed, written to
    the log and changed again makes SQLite read the whole log back at the
    commit, to renew its checksums.
    """

    def __init__(self, conn: sqlite3.Connection, rounds: Sequence[int]) -> None:
        """Find what `rounds` name, inside an open transaction."""
        self._conn = conn
        self._rounds = rounds
        places: dict[str, int] = {}
        for round_num in rounds:
            for digest, chunk_id in _named_by(conn, round_num):
                places[digest] = max(chunk_id, places.get(digest, 0))
        self._places = dict(sorted(places.items(), key=lambda item: item[1]))

    def num_bytes(self) -> int:
        """Return what dropping all of them gives back."""
        unused = _unused_but_for(self._rounds)
        query = f"SELECT length(data) FROM chunk_data WHERE chunk_hash = ?1 {unused}"  # noqa: S608 - numbers of rounds
        rows = (
            self._conn.execute(query, (digest,)).fetchone() for digest in self._places
        )
        return sum(row[0] for row in rows if row is not None)

    def keep(self, digest: str) -> None:
        """Keep a chunk that the new round needs."""
        self._places.pop(digest, None)

    def make_room(self, chunk_id: int) -> None:
        """Drop the chunks up to this place."""
        going = set()
        for digest, place in self._places.items():
            if place > chunk_id:
                break
            going.add(digest)
        for digest in going:
            del self._places[digest]
        drop_unused(self._conn, going, but_for=self._rounds)

    def drop_rest(self) -> None:
        """Drop the chunks that are left, and all rows."""
        drop_unused(self._conn, self._places, but_for=self._rounds)
        self._places.clear()
        for round_num in self._rounds:
            forget_round(self._conn, round_num)


def forget_round(conn: sqlite3.Connection, round_num: int) -> None:
    """Delete a round's rows.

    Raises:
        sqlite3.Error: from SQLite.
    """
    for table in ("rounds", "tensors", "chunk_metadata"):
        conn.execute(f"DELETE FROM {table} WHERE round_num = ?", (round_num,))  # noqa: S608 - names above


def drop_unused(
    conn: sqlite3.Connection, digests: Iterable[str], *, but_for: Sequence[int] = ()
) -> None:
    """Delete those of the chunks that no round names and nobody waits for.

    Args:
        conn: the writer's connection.
        digests: which chunks.
        but_for: rounds that do not count.

    Raises:
        sqlite3.Error: from SQLite.
    """
    conn.executemany(
        f"DELETE FROM chunk_data WHERE chunk_hash = ?1 {_unused_but_for(but_for)}",  # noqa: S608 - numbers of rounds
        ((digest,) for digest in digests),
    )


def rounds_beyond(
    conn: sqlite3.Connection, keep_rounds: int, *, besides: int | None = None
) -> list[int]:
    """Return all rounds but the newest `keep_rounds`, oldest first.

    Args:
        conn: the writer's connection.
        keep_rounds: how many to keep.
        besides: a round that is kept in addition, whether it is there or not.

    Raises:
        sqlite3.Error: from SQLite.
    """
    rows = conn.execute(
        """SELECT round_num FROM rounds WHERE round_num IS NOT ?
           ORDER BY round_num DESC LIMIT -1 OFFSET ?""",
        (besides, keep_rounds),
    )
    return sorted(int(row[0]) for row in rows)


def tidy(conn: sqlite3.Connection, path: Path) -> None:
    """Fold the log in after a commit; shrink the file if much of it is free.

    What was committed is safe already, so neither a full disk nor another
    process at work is an error here: the log keeps the round until next time.

    Raises:
        DamagedStoreError: SQLite cannot read its own pages.
    """
    try:
        fold_log(conn, path, keep_file=True)
        free = count_pages(conn, path, "freelist_count")
        if free > _FREE_FRAC * count_pages(conn, path, "page_count"):
            with hurrying(conn):
                give_back_space(conn, path)
    except (StoreFullError, StoreLockedError):
        return


def prune(conn: sqlite3.Connection, path: Path, keep_rounds: int) -> PruneStats:
    """Keep the newest rounds only and give the space back, on a full disk too.

    Raises:
        ValueError: nothing would be kept.
        StoreFullError: not even the ballast's room was enough.
        StoreLockedError: another process is writing.
    """
    check_keep_rounds(keep_rounds)
    before = path.stat().st_size
    with translated(path):
        rounds = rounds_beyond(conn, keep_rounds)
    try:
        with transaction(conn, path):
            Leaving(conn, rounds).drop_rest()
            _drop_orphans(conn)
        fold_log(conn, path)
        give_back_space(conn, path)
        _compact_if_wasteful(conn, path)
    except StoreFullError:
        _prune_in_need(conn, path, rounds)
    return PruneStats(tuple(rounds), max(0, before - path.stat().st_size))


def _compact_if_wasteful(conn: sqlite3.Connection, path: Path) -> None:
    """Rewrite the file if its pages are mostly air.

    SQLite joins neighbouring pages only below a third: after chunks that went
    among chunks that stayed, half of a page can be free for good.
    """
    with translated(path, is_writing=True):
        live = conn.execute("SELECT coalesce(sum(length(data)), 0) FROM chunk_data")
        needed = _WASTE_RATIO * live.fetchone()[0] + _NUM_TREES * PAGE_BYTES
        if path.stat().st_size > needed:
            Database(conn, execute_plugins=False).vacuum()
            fold_log(conn, path)


def _prune_in_need(conn: sqlite3.Connection, path: Path, rounds: Sequence[int]) -> None:
    """Prune in steps so small that the ballast has room for their log.

    Each step leaves whole rounds only; chunks that a crash leaves behind are
    orphans, and the next prune takes them.
    """
    drop_ballast(path)
    _fold_if_possible(conn, path)
    for round_num in rounds:
        with transaction(conn, path):
            forget_round(conn, round_num)
        _fold_if_possible(conn, path)
    num_dropped = 1
    while num_dropped:
        with transaction(conn, path):
            num_dropped = _drop_orphans(conn, _STEP_CHUNKS)
        _fold_if_possible(conn, path)
    give_back_space_in_need(conn, path)
    with contextlib.suppress(StoreFullError):
        # What was asked for is done, whoever took the room; the next writer that
        # opens the store tries again.
        keep_ballast(path)


def _fold_if_possible(conn: sqlite3.Connection, path: Path) -> None:
    try:
        fold_log(conn, path)
    except StoreFullError:
        # The database cannot grow yet; dropping rounds goes on in the log.
        return


def _drop_orphans(conn: sqlite3.Connection, limit: int = -1) -> int:
    """Delete chunks that nobody needs, whatever they call themselves."""
    return conn.execute(_DROP_ORPHANS, (limit,)).rowcount


def _named_by(conn: sqlite3.Connection, round_num: int) -> Iterator[tuple[str, int]]:
    rows = conn.execute(
        "SELECT chunk_hash, chunk_id FROM chunk_metadata WHERE round_num = ?",
        (round_num,),
    )
    return ((str(digest), int(chunk_id)) for digest, chunk_id in rows)


def _unused_but_for(rounds: Sequence[int]) -> str:
    """Return the condition that nobody needs chunk `?1`, these rounds aside."""
    numbers = ", ".join(map(str, rounds))
    return f"""
        AND NOT EXISTS (SELECT 1 FROM chunk_metadata
                        WHERE chunk_hash = ?1 AND round_num NOT IN ({numbers}))
        AND NOT EXISTS (SELECT 1 FROM staged_chunks WHERE chunk_hash = ?1)"""  # noqa: S608 - numbers of rounds
