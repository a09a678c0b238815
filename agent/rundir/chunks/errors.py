"""What can be wrong with a chunk store, each told apart by its type.

No `sqlite3` exception leaves this package: a dashboard and a trainer both
need to know whether a file is foreign, newer, locked, full or damaged.
"""

import errno
import os
import shlex
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from agent.rundir.errors import (
    LockedError,
    NewerSchemaError,
    RunDirError,
    UnreadableFileError,
)
from agent.rundir.layout import RunDir

EXIT_DAMAGED = 2
"""What `verify` ends with when something is damaged."""

_SQLITE_IOERR_SHMSIZE = 4874
"""The shared-memory file could not grow: the disk is full (SQLite's list)."""

_MAX_NAMED = 3


@dataclass(frozen=True, slots=True)
class Source:
    """Where else the bytes of a chunk can be had."""

    node: str
    path: Path
    round_num: int | None
    """None: held there without belonging to a round yet."""


@dataclass(frozen=True, slots=True)
class ChunkPlace:
    """Which chunk an error is about."""

    node: str
    round_num: int | None
    """None: the chunk was asked for by its digest and belongs to no round."""
    chunk_id: int | None
    tensors: tuple[str, ...]
    """Names of the tensors that have a part in it."""
    digest: str

    def __str__(self) -> str:
        """Say it in one phrase: chunk, round, node, tensors."""
        where = f"chunk {self.chunk_id} of round {self.round_num}"
        if self.chunk_id is None or self.round_num is None:
            where = f"chunk `{self.digest[:12]}`"
        return f"{where} at `{self.node}`{_named_tensors(self.tensors)}"


class NotAChunkStoreError(UnreadableFileError):
    """The file is missing, empty, or no database that this version knows."""


class ForeignStoreError(UnreadableFileError):
    """The database was written by the original ChunkManager (pickled arrays)."""


class NewerStoreError(NewerSchemaError):
    """The store, or a chunk's codec, is of a newer version."""


class StoreLockedError(LockedError):
    """Another process holds the store's write lock, or the file is locked."""


class StoreFullError(RunDirError):
    """The disk has no room; the store is as it was before."""


class DamagedStoreError(UnreadableFileError):
    """SQLite cannot read a part of the database, or rows contradict each other."""

    exit_code = EXIT_DAMAGED


class NoSuchRoundError(RunDirError):
    """The store does not hold the round, or no longer."""


class NoSuchTensorError(RunDirError):
    """The round has no tensor of that name or pattern."""


class RoundExistsError(RunDirError):
    """The store already holds another model under this round's number."""


class ChunkError(RunDirError):
    """One chunk cannot be had; `place` and `elsewhere` say all that is known."""

    exit_code = EXIT_DAMAGED

    def __init__(
        self, place: ChunkPlace, what: str, elsewhere: Sequence[Source], run_dir: Path
    ) -> None:
        hint = None
        if elsewhere:
            command = ["python", "-m", "trainer", "repair", str(run_dir)]
            hint = shlex.join([*command, "--node", place.node])
        super().__init__(f"{place} {what}{_named_sources(elsewhere)}", hint=hint)
        self.place = place
        self.elsewhere = tuple(elsewhere)


class DamagedChunkError(ChunkError):
    """The bytes on disk do not have the digest under which they are kept."""


class MissingChunkError(ChunkError):
    """A round names a chunk that the store does not hold."""


@contextmanager
def translated(path: Path, *, is_writing: bool = False) -> Iterator[None]:
    """Turn what SQLite raises about `path` into this package's errors.

    A reader that is told that the disk is full has met a page number beyond
    the largest possible: that is damage.

    Raises:
        RunDirError: one of the classes above.
    """
    try:
        yield
    except sqlite3.Error as error:
        raise _translate(error, path, is_writing=is_writing) from error
    except UnicodeDecodeError as error:
        # The message itself quoted damaged text; Python could not decode it.
        raise DamagedStoreError(f"`{path}` cannot be read: damaged schema") from error


def _translate(error: sqlite3.Error, path: Path, *, is_writing: bool) -> RunDirError:
    """Return the typed error for one of SQLite's.

    Source: https://www.sqlite.org/rescode.html
    """
    code = getattr(error, "sqlite_errorcode", None)
    primary = None if code is None else code & 0xFF
    is_full = primary == sqlite3.SQLITE_FULL and is_writing
    if is_full or code == _SQLITE_IOERR_SHMSIZE:
        return full_error(path)
    if primary in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
        return StoreLockedError(
            f"`{path}` is locked by another process", hint=f"fuser -v {path}"
        )
    if primary == sqlite3.SQLITE_NOTADB:
        return NotAChunkStoreError(f"`{path}` is not a SQLite database")
    if primary == sqlite3.SQLITE_CANTOPEN:
        return NotAChunkStoreError(f"`{path}` cannot be opened: {_why_not(path)}")
    return DamagedStoreError(f"`{path}` cannot be read: {error}")


def full_error(path: Path, detail: str = "no space left on its disk") -> StoreFullError:
    """Return the error for a disk without room, with the command that makes some."""
    return StoreFullError(f"`{path}` cannot grow: {detail}", hint=_how_to_shrink(path))


def _how_to_shrink(path: Path) -> str:
    """Name the pruning of a store at its usual place; of others, the disk only."""
    node, run_dir = path.parent.name, path.parent.parent.parent
    if path != RunDir(run_dir).chunk_store(node):
        return shlex.join(["df", "-h", str(path.parent)])
    prune = ["python", "-m", "trainer", "prune", str(run_dir), "--node", node]
    # A client needs what it trained last and what was acknowledged last.
    return shlex.join([*prune, "--keep-rounds", "2"])


def _why_not(path: Path) -> str:
    """Ask without opening: that would drop the locks of this process."""
    if not path.exists():
        return os.strerror(errno.ENOENT)
    if not os.access(path, os.R_OK):
        return os.strerror(errno.EACCES)
    return "its directory cannot be written"


def _named_tensors(names: Sequence[str]) -> str:
    if not names:
        return ""
    shown = ", ".join(f"`{name}`" for name in names[:_MAX_NAMED])
    more = len(names) - _MAX_NAMED
    return f" ({shown}{f' and {more} more' if more > 0 else ''})"


def _named_sources(sources: Sequence[Source]) -> str:
    if not sources:
        return "; no other node holds it"
    shown = [
        f"`{source.node}`"
        + ("" if source.round_num is None else f" (round {source.round_num})")
        for source in sources[:_MAX_NAMED]
    ]
    return f"; also held by {', '.join(shown)}"
