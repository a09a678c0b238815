"""`stacks/<attempt>/<process>.txt`: where a process writes its Python stacks.

The first line says, as JSON behind a `#`, which process writes there and which
signal makes it write; a file without that line belongs to a process that must
not be signalled. What follows is text from `faulthandler`, for people.
"""

import os
from pathlib import Path

import msgspec

from agent.rundir.layout import RunDir
from agent.rundir.process import ProcessId
from agent.rundir.reading import read_regular

_MAX_HEADER_BYTES = 4096


class StacksHeader(msgspec.Struct, frozen=True, kw_only=True):
    """The first line."""

    node: str
    rank: int | None
    process: ProcessId
    signum: int | None
    """Sent to the process it makes it write; None: no signal was free; 0: something
    else has taken it since."""


def stacks_file(run: RunDir, attempt: int, stem: str) -> Path:
    """Return the file of one process, e.g. `stacks/0001/rank-00003.txt`."""
    return run.stacks / f"{attempt:04d}" / f"{stem}.txt"


def encode_header(header: StacksHeader) -> bytes:
    """Return the first line, newline included."""
    return b"# " + msgspec.json.encode(header) + b"\n"


def withdraw_signal(path: Path, signum: int) -> None:
    """Say in the first line that the process must not be sent its signal any more.

    The line keeps its length, because the process goes on writing behind it.

    Raises:
        OSError: it cannot be written.
    """
    line = read_regular(path, _MAX_HEADER_BYTES).partition(b"\n")[0]
    told = f'"signum":{signum}'.encode()
    none = b'"signum":' + b"0".rjust(len(str(signum)))
    fd = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        os.pwrite(fd, line.replace(told, none), 0)
    finally:
        os.close(fd)


def read_header(path: Path) -> StacksHeader | None:
    """Return who writes a stacks file; None: nobody says so."""
    try:
        line = read_regular(path, _MAX_HEADER_BYTES).partition(b"\n")[0]
        return msgspec.json.decode(line.removeprefix(b"# "), type=StacksHeader)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return None


def list_headers(run: RunDir, attempt: int) -> list[StacksHeader]:
    """Return every process of an attempt that said who it is, by node."""
    directory = run.stacks / f"{attempt:04d}"
    try:
        paths = sorted(path for path in directory.iterdir() if path.suffix == ".txt")
    except OSError:
        return []
    headers = [read_header(path) for path in paths]
    return [header for header in headers if header is not None]
