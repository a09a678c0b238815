"""The writing end of a store: one connection, its settings and its upkeep.

`synchronous=FULL` makes a commit wait for the disk: NORMAL lost up to 11
acknowledged rounds in 21 of 40 power cuts, FULL none. The log is folded into
the database by us, after the commit, so that a reader that holds an old
state delays the folding and never the commit. sqlite-utils makes the tables;
blobs go through `sqlite3` itself, which is 4-60 times faster.
"""

import contextlib
import os
import shutil
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

from sqlite_utils import Database

from agent.rundir.atomic import fsync_directory
from agent.rundir.chunks.connection import check_format, table_names
from agent.rundir.chunks.errors import (
    NotAChunkStoreError,
    StoreFullError,
    full_error,
    translated,
)
from agent.rundir.chunks.schema import (
    APPLICATION_ID,
    BALLAST_BYTES,
    BALLAST_NAME,
    DDL,
    PAGE_BYTES,
    SCHEMA,
)

WRITE_TIMEOUT_S = 60.0
"""How long another writer is waited for. Pruning by hand may rewrite a large file,
and a round that a server cannot store ends its federation."""

_CACHE_KIB = 16_384
_VACUUM_STEP_PAGES = 256
"""Pages moved at once: their copies wait in the log until it is folded in."""

_EMERGENCY_STEP_PAGES = 8
"""The same while the disk is full and the log may grow by the ballast only."""


def open_database(path: Path, node: str) -> sqlite3.Connection:
    """Open a store for writing; make it if there is none.

    Raises:
        NotAChunkStoreError, ForeignStoreError, NewerStoreError: what is there
            is not a store that this version may write to.
        StoreLockedError: another process is writing.
        StoreFullError: there is no room for a new store.
    """
    _make_directory(path.parent)
    with translated(path, is_writing=True):
        conn = sqlite3.connect(
            path, timeout=WRITE_TIMEOUT_S, isolation_level=None, check_same_thread=False
        )
    try:
        with translated(path, is_writing=True):
            _prepare(conn, path, node)
    except BaseException:
        conn.close()
        raise
    with contextlib.suppress(StoreFullError):
        keep_ballast(path)
    return conn


@contextlib.contextmanager
def transaction(conn: sqlite3.Connection, path: Path) -> Iterator[None]:
    """Commit all statements or none, durably.

    Raises:
        StoreLockedError: another process is writing.
        StoreFullError: the disk is full; what was there is still there.
        DamagedStoreError: SQLite cannot read what it needs.
    """
    try:
        with translated(path, is_writing=True):
            conn.execute("BEGIN IMMEDIATE")
            yield
            conn.execute("COMMIT")
    except BaseException:
        # SQLite has rolled back by itself after some errors, a full disk too.
        with contextlib.suppress(sqlite3.Error):
            if conn.in_transaction:
                conn.execute("ROLLBACK")
        raise


def fold_log(conn: sqlite3.Connection, path: Path, *, keep_file: bool = False) -> bool:
    """Move the write-ahead log into the database, without waiting for readers.

    Args:
        conn: the writer's connection.
        path: the database.
        keep_file: leave the log's room to the next round, which then
            overwrites it: 88 ms for 25M parameters instead of 134.

    Returns:
        Whether all of it was moved. A reader in the middle of a transaction
        delays that until the next time; nothing is lost meanwhile.

    Raises:
        StoreFullError: the database cannot grow; the log keeps what it has.
    """
    mode = "RESTART" if keep_file else "TRUNCATE"
    with translated(path, is_writing=True), hurrying(conn):
        row = conn.execute(f"PRAGMA wal_checkpoint({mode})").fetchone()
    return row is not None and row[0] == 0


@contextlib.contextmanager
def hurrying(conn: sqlite3.Connection) -> Iterator[None]:
    """Wait for no other writer inside the block: what it does can be put off."""
    (before_ms,) = conn.execute("PRAGMA busy_timeout").fetchone()
    conn.execute("PRAGMA busy_timeout=0")
    try:
        yield
    finally:
        conn.execute(f"PRAGMA busy_timeout={before_ms}")


def give_back_space(
    conn: sqlite3.Connection, path: Path, *, step_pages: int = _VACUUM_STEP_PAGES
) -> int:
    """Shrink the file by all its free pages; return how many bytes that was.

    Raises:
        StoreFullError: there is no room even for moving pages.
    """
    freed = 0
    while True:
        free = count_pages(conn, path, "freelist_count")
        if free == 0:
            return freed * PAGE_BYTES
        with translated(path, is_writing=True):
            # The statement frees one page per step, and `execute` steps once.
            conn.executescript(f"PRAGMA incremental_vacuum({step_pages})")
        left = count_pages(conn, path, "freelist_count")
        freed += free - left
        is_folded = fold_log(conn, path)
        if left >= free or not is_folded:
            # A reader holds the old pages: go on next time rather than grow.
            return freed * PAGE_BYTES


def give_back_space_in_need(conn: sqlite3.Connection, path: Path) -> int:
    """Do the same in steps so small that the ballast has room for them."""
    return give_back_space(conn, path, step_pages=_EMERGENCY_STEP_PAGES)


def count_pages(conn: sqlite3.Connection, path: Path, what: str) -> int:
    """Return `page_count` or `freelist_count`."""
    with translated(path, is_writing=True):
        return int(conn.execute(f"PRAGMA {what}").fetchone()[0])


def check_room(
    conn: sqlite3.Connection, path: Path, new_bytes: int, *, reusable: int = 0
) -> None:
    """Refuse a round that cannot fit, before the disk is filled up with it.

    The log takes the new chunks first, then the database does, as far as it
    has no free pages for them. `reusable` bytes will be free besides.

    Raises:
        StoreFullError: naming both figures.
    """
    reusable += count_pages(conn, path, "freelist_count") * PAGE_BYTES
    needed = new_bytes + max(0, new_bytes - reusable)
    free = free_bytes(path)
    if needed > free:
        raise full_error(
            path, f"the round needs {needed} bytes, its disk has {free} left"
        )


def log_of(path: Path) -> Path:
    """Return the write-ahead log of a database."""
    return path.with_name(f"{path.name}-wal")


def free_bytes(path: Path) -> int:
    """Return what is left for us on the disk of `path`.

    Raises:
        NotAChunkStoreError: the disk is gone.
    """
    try:
        return shutil.disk_usage(path.parent).free
    except OSError as error:
        raise NotAChunkStoreError(
            f"`{path}` cannot be written: {error.strerror}"
        ) from error


def keep_ballast(path: Path) -> None:
    """Make sure that there is a file to delete when the disk is full.

    Raises:
        StoreFullError: there is no room for it.
    """
    ballast = path.with_name(BALLAST_NAME)
    if ballast.exists() and ballast.stat().st_size == BALLAST_BYTES:
        return
    try:
        fd = os.open(ballast, os.O_WRONLY | os.O_CREAT, 0o666)
        try:
            os.posix_fallocate(fd, 0, BALLAST_BYTES)
        finally:
            os.close(fd)
    except OSError as error:
        drop_ballast(path)
        raise full_error(path, "no room for its ballast file") from error


def drop_ballast(path: Path) -> None:
    """Give the ballast's room to whoever needs it now."""
    path.with_name(BALLAST_NAME).unlink(missing_ok=True)


def _make_directory(directory: Path) -> None:
    """Make the directory and the names on the way to it durable."""
    missing = [p for p in (directory, *directory.parents) if not p.exists()]
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for made in missing:
            fsync_directory(made.parent)
    except OSError as error:
        raise NotAChunkStoreError(
            f"`{directory}` cannot be made: {error.strerror}"
        ) from error


def _prepare(conn: sqlite3.Connection, path: Path, node: str) -> None:
    # Both take effect only before the first table exists.
    conn.execute(f"PRAGMA page_size={PAGE_BYTES}")
    conn.execute("PRAGMA auto_vacuum=INCREMENTAL")
    if table_names(conn):
        check_format(conn, path)
    conn.execute("PRAGMA journal_mode=WAL").fetchone()
    conn.execute("PRAGMA synchronous=FULL")
    conn.execute("PRAGMA wal_autocheckpoint=0").fetchone()
    # Debian's SQLite has it on: deletes are 15 times slower.
    conn.execute("PRAGMA secure_delete=OFF").fetchone()
    conn.execute(f"PRAGMA cache_size=-{_CACHE_KIB}")
    conn.execute("PRAGMA trusted_schema=OFF")
    if not table_names(conn):
        _create(conn, path, node)


def _create(conn: sqlite3.Connection, path: Path, node: str) -> None:
    """Make all tables in one transaction: a store is never half made."""
    database = Database(conn, execute_plugins=False)
    with transaction(conn, path):
        if table_names(conn):
            return  # another process was faster
        for statement in DDL:
            database.execute(statement)
        facts = {"node": node, "created_ns": str(time.time_ns())}
        for key, value in facts.items():
            database.execute("INSERT INTO store_info VALUES (?, ?)", [key, value])
        database.execute(f"PRAGMA application_id={APPLICATION_ID}")
        database.execute(f"PRAGMA user_version={SCHEMA}")
    fold_log(conn, path)
    fsync_directory(path.parent)
