"""The Python stacks that a process left in its file, newest dump first.

The file holds what `faulthandler` wrote, dump after dump, for people; here it
is cut into dumps and threads, never more than its end is read, and nothing in
it is trusted to have that form.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from agent.rundir.layout import RunDir
from agent.rundir.stacks import stacks_file

_MAX_BYTES = 256 << 10
_STAMP = re.compile(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ .*$")
_THREAD = re.compile(r"^(Current thread|Thread) 0x[0-9a-f]+.*:$")
_FRAME = re.compile(r'^  File "(?P<file>[^"]*)", line (?P<line>\d+) in (?P<name>.*)$')


@dataclass(frozen=True)
class StackDump:
    """What one process wrote at one moment."""

    attempt: int
    stamp: str
    """When and why, as its first line says; empty: it was made by a signal."""
    lines: tuple[str, ...]

    def threads(self) -> "list[tuple[str, ...]]":
        """Return the lines of each thread, the main one first.

        `faulthandler` writes the main thread last.
        """
        threads: list[list[str]] = [[]]
        for line in self.lines:
            if _THREAD.match(line):
                threads.append([])
            threads[-1].append(line)
        return [tuple(thread) for thread in reversed(threads) if thread]

    def frames(self) -> list[str]:
        """Return the main thread's frames, innermost first: `loop.py:120 run`."""
        main = next(iter(self.threads()), ())
        found = filter(None, map(_FRAME.match, main))
        return [f"{Path(f['file']).name}:{f['line']} {f['name']}" for f in found]


def read_newest_dumps(run: RunDir, attempt: int, stem: str) -> list[StackDump]:
    """Return the dumps of the newest attempt, from one on downwards, that has any."""
    try:
        names = [path.name for path in run.stacks.iterdir()]
    except OSError:
        return []
    older = sorted(
        (int(n) for n in names if n.isdecimal() and len(n) <= 9), reverse=True
    )
    found = (read_dumps(run, one, stem) for one in older if one <= attempt)
    return next(filter(None, found), [])


def read_dumps(run: RunDir, attempt: int, stem: str) -> list[StackDump]:
    """Return the dumps of a process, newest first; empty: it wrote none."""
    lines = _last_lines(stacks_file(run, attempt, stem))
    dumps: list[StackDump] = []
    stamp, body = "", list[str]()
    for line in lines:
        if _STAMP.match(line):
            _close(dumps, attempt, stamp, body)
            stamp, body = line, []
        elif line.strip() and not line.startswith("# "):
            body.append(line)
    _close(dumps, attempt, stamp, body)
    return dumps[::-1]


def _close(dumps: list[StackDump], attempt: int, stamp: str, body: list[str]) -> None:
    if body:
        dumps.append(StackDump(attempt, stamp, tuple(body)))


def _last_lines(path: Path) -> list[str]:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        fd = os.open(path, flags)
    except OSError:
        return []
    try:
        size = os.fstat(fd).st_size
        data = os.pread(fd, _MAX_BYTES, max(0, size - _MAX_BYTES))
    except OSError:
        return []
    finally:
        os.close(fd)
    return data.decode("utf-8", "replace").splitlines()
