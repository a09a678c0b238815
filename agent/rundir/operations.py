"""What operators did to a run from their dashboards: `operations/<host>-<pid>.jsonl`.

Each dashboard appends to its own file and reads everybody's, so that a
verification outlives the screen it was made on. A trainer never reads them:
what is resumed without being named is decided by `checkpoints/verified.jsonl`.
"""

import contextlib
import os
import stat
from pathlib import Path

import msgspec

from agent.rundir.layout import RunDir

OPERATION_SCHEMA = 1

_MAX_FILES = 256
_MAX_FILE_BYTES = 1 << 20
"""Of each file's end: what an operator did lately is what matters."""


class Operation(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line: an operation as it stood when the line was written."""

    schema: int
    id: str
    """The same in all lines of one operation."""
    kind: str
    """`verify`, `resume`, `restore`, `repair`, `pin`, or that of a request."""
    stage: str
    """`started`, `done`, `failed` or `cancelled`."""
    time_ns: int
    """Wall clock, Unix ns."""
    by: str
    """`user@host`."""
    subject: str | None = None
    """Name of the checkpoint, or `chunks/<node>`; None: the run."""
    digest: str | None = None
    """Of the checkpoint's manifest at that time."""
    state: str | None = None
    """Of a verification: its verdict, e.g. `sound`."""
    level: str | None = None
    """Of a verification: how deep it looked."""
    text: str = ""
    """What was found, or why it failed, in words."""
    duration_ns: int | None = None
    command: tuple[str, ...] = ()
    """The equivalent shell command."""


_decoder = msgspec.json.Decoder(Operation)


def encode_operation(operation: Operation) -> bytes:
    """Return the operation as one line, newline included."""
    return msgspec.json.encode(operation) + b"\n"


def read_operations(run: RunDir) -> list[Operation]:
    """Return what can be read of every dashboard's file, oldest first.

    Of many files the most recently changed 256 are read, of each the last MiB.
    """
    found: list[Operation] = []
    for path in _newest_files(run.operations):
        found += _read(path)
    return sorted(found, key=lambda operation: operation.time_ns)


def _newest_files(directory: Path) -> list[Path]:
    try:
        with os.scandir(directory) as entries:
            dated = [
                (entry.stat().st_mtime_ns, entry.path)
                for entry in entries
                if entry.name.endswith(".jsonl")
                and entry.is_file(follow_symlinks=False)
            ]
    except OSError:
        return []
    return [Path(path) for _, path in sorted(dated)[-_MAX_FILES:]]


def _read(path: Path) -> list[Operation]:
    found = []
    for line in _last_bytes(path).split(b"\n"):
        with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError):
            operation = _decoder.decode(line)
            if operation.schema <= OPERATION_SCHEMA:
                found.append(operation)
    return found


def _last_bytes(path: Path) -> bytes:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            return b""
        return os.pread(fd, _MAX_FILE_BYTES, max(0, found.st_size - _MAX_FILE_BYTES))
    except OSError:
        return b""
    finally:
        os.close(fd)
