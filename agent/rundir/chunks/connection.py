"""Open a store to read it, and nothing else.

A connection here never changes the database. SQLite still keeps its locks in
`-shm` beside a live store, so a reader that may not write there falls back to
`immutable=1`, which is right only while nobody writes: it is taken only when
no write-ahead log exists.
"""

import shlex
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from agent.rundir.chunks.errors import (
    ForeignStoreError,
    NewerStoreError,
    NotAChunkStoreError,
    translated,
)
from agent.rundir.chunks.schema import APPLICATION_ID, SCHEMA

BUSY_TIMEOUT_S = 5.0
"""How long a lock of another process is waited for."""
_CACHE_KIB = 512
"""Of one connection: the way to a row, not the rows, which are read once each."""


def open_readonly(path: Path) -> sqlite3.Connection:
    """Open a store of ours for reading.

    The connection belongs to the thread that uses it first; `read` runs short
    transactions on it.

    Raises:
        NotAChunkStoreError: missing, not SQLite, or another kind of database.
        ForeignStoreError: written by the original ChunkManager.
        NewerStoreError: written by a newer version.
        StoreLockedError: locked exclusively for too long.
        DamagedStoreError: SQLite cannot read it.
    """
    conn = connect_readonly(path)
    try:
        with translated(path):
            check_format(conn, path)
    except BaseException:
        conn.close()
        raise
    return conn


def connect_readonly(path: Path) -> sqlite3.Connection:
    """Open any SQLite file for reading, whatever its tables.

    Raises:
        NotAChunkStoreError: missing or not SQLite.
        StoreLockedError: locked exclusively for too long.
        DamagedStoreError: SQLite cannot read it.
    """
    _check_file(path)
    with translated(path):
        try:
            return _connect(path, "mode=ro")
        except sqlite3.OperationalError as error:
            if not _may_be_immutable(error, path):
                raise
        return _connect(path, "mode=ro&immutable=1")


def check_format(conn: sqlite3.Connection, path: Path) -> None:
    """Make sure that the database is a store that this version can read.

    Raises:
        NotAChunkStoreError, ForeignStoreError, NewerStoreError: it is not.
        sqlite3.Error: it cannot be read at all.
    """
    version = int(conn.execute("PRAGMA user_version").fetchone()[0])
    if conn.execute("PRAGMA application_id").fetchone()[0] == APPLICATION_ID:
        if version > SCHEMA:
            raise NewerStoreError(
                f"`{path}` has schema {version}, this version reads up to {SCHEMA}",
                hint="pip install --upgrade opsdash",
            )
        return
    tables = table_names(conn)
    if {"chunk_metadata", "chunk_data"} <= tables:
        raise ForeignStoreError(
            f"`{path}` was written by the original ChunkManager",
            hint=f"python -m trainer export-foreign {shlex.quote(str(path))}",
        )
    what = "another kind of database" if tables else "empty"
    raise NotAChunkStoreError(f"`{path}` is no chunk store: it is {what}")


def table_names(conn: sqlite3.Connection) -> set[str]:
    """Return the names of the database's tables."""
    rows = conn.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
    return {row[0] for row in rows}


@contextmanager
def reading(conn: sqlite3.Connection, path: Path) -> Iterator[None]:
    """Let several statements see one state of the store.

    Keep it short: while it is open, the write-ahead log cannot be reset.

    Raises:
        RunDirError: one of this package's, for whatever SQLite raised.
    """
    with translated(path):
        conn.execute("BEGIN")
        try:
            yield
        finally:
            # A damaged page can end the transaction by itself.
            if conn.in_transaction:
                conn.execute("ROLLBACK")


def _connect(path: Path, query: str) -> sqlite3.Connection:
    conn = sqlite3.connect(
        f"file:{quote(str(path.resolve()))}?{query}",
        uri=True,
        timeout=BUSY_TIMEOUT_S,
        isolation_level=None,
        check_same_thread=False,
    )
    # A flipped bit in a name must surface as a digest that differs.
    conn.text_factory = _lenient_text
    try:
        conn.execute("PRAGMA trusted_schema=OFF")
        conn.execute(f"PRAGMA cache_size=-{_CACHE_KIB}")
        # Opening touches nothing: only a query shows whether it can be read.
        conn.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except BaseException:
        conn.close()
        raise
    return conn


def _lenient_text(data: bytes) -> str:
    return data.decode(errors="replace")


def _check_file(path: Path) -> None:
    """Refuse what SQLite would take for an empty database, or wait for.

    The file is not opened: closing any descriptor of it drops the locks that
    this process holds on it through SQLite (<https://sqlite.org/howtocorrupt.html>,
    2.2), and then another process may take the write-ahead log away.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise NotAChunkStoreError(
            f"`{path}` cannot be opened: {error.strerror}"
        ) from error
    if stat.S_ISDIR(status.st_mode):
        raise NotAChunkStoreError(f"`{path}` cannot be opened: Is a directory")
    if not stat.S_ISREG(status.st_mode):
        raise NotAChunkStoreError(f"`{path}` is not a SQLite database")
    if status.st_size == 0:
        raise NotAChunkStoreError(f"`{path}` is empty")


def _may_be_immutable(error: sqlite3.Error, path: Path) -> bool:
    code = error.sqlite_errorcode & 0xFF
    log = path.with_name(path.name + "-wal")
    return code in {sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY} and (
        not log.exists() or log.stat().st_size == 0
    )
