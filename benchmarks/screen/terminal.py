"""A program under a pseudo-terminal whose output is timed when it arrives.

A thread takes what comes and notes when; drawing it into the screen in memory
is slow and happens later, so that it delays neither the program nor the clock.
Times are this process's monotonic clock, seconds.
"""

import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import psutil

from tests.pty_terminal import PtyTerminal

CLOCK, PROGRAM, WRITER = 30, 20, 10
"""Who goes before whom where others use the machine as well; see `go_first`."""
is_realtime = False
"""Set by the benchmark's command line."""
ROOT = Path(__file__).resolve().parents[2]
SIZE = {"columns": 120, "rows": 36}
_PATIENCE_S = 60.0


class TimedTerminal(PtyTerminal):
    """A terminal of 120 x 36 in true colour."""

    def __init__(
        self, argv: Sequence[str | Path], env: Mapping[str, str | None] | None = None
    ):
        self._pieces: queue.SimpleQueue[tuple[float, bytes]] = queue.SimpleQueue()
        self.arrived_s = 0.0
        """When the newest piece that is drawn came."""
        sys.setswitchinterval(0.0005)  # the thread below must not wait for drawing
        self.began_s = time.monotonic()
        super().__init__(argv, env=env, cwd=ROOT, **SIZE)
        go_first(self.pid, PROGRAM)
        # Of its own: the number of a closed one may be the next terminal's.
        own = os.dup(self._fd)
        threading.Thread(target=self._take, args=(own,), daemon=True).start()
        self._tree = psutil.Process(self.pid)

    def shown_s(self, text: str) -> float:
        """Wait for a text; return when what showed it had arrived."""
        return self.so_s(lambda: text in self.text, f"`{text}` on the screen")

    def so_s(self, is_so: Callable[[], bool], what: str) -> float:
        """Wait until the screen is so; return when that had arrived."""
        self.wait_until(is_so, what, _PATIENCE_S)
        return self.arrived_s

    def line(self, number: int) -> str:
        """Return one line of the screen; cheaper than all of it."""
        row = self.terminal.buffer[number]
        return "".join(row[x].data for x in range(self.terminal.columns))

    def pass_time(self, seconds: float) -> None:
        """Let the program go on for so long, and draw what it sends."""
        until_s = time.monotonic() + seconds
        while (left_s := until_s - time.monotonic()) > 0:
            self._read(left_s)

    @property
    def cpu_s(self) -> float:
        """CPU time of the program and its children so far, seconds."""
        times = [process.cpu_times() for process in self._processes()]
        return sum(used.user + used.system for used in times)

    @property
    def helpers_cpu_s(self) -> float:
        """CPU time of all threads of the program but its first, seconds."""
        threads = self._tree.threads()
        others = [one for one in threads if one.id != self.pid]
        return sum(one.user_time + one.system_time for one in others)

    @property
    def rss_bytes(self) -> int:
        """Resident memory of the program and its children."""
        return sum(process.memory_info().rss for process in self._processes())

    @property
    def painting_rss_bytes(self) -> int:
        """The same without a launcher that only waits for what it started."""
        return self.rss_bytes - self._launcher_rss_bytes

    @property
    def _launcher_rss_bytes(self) -> int:
        has_children = bool(self._tree.children())
        return self._tree.memory_info().rss if has_children else 0

    def _processes(self) -> list[psutil.Process]:
        return [self._tree, *self._tree.children(recursive=True)]

    def _take(self, fd: int) -> None:
        go_first(threading.get_native_id(), CLOCK)
        data = b"."
        while data:
            try:
                data = os.read(fd, 1 << 16)
            except OSError:
                data = b""
            self._pieces.put((time.monotonic(), data))
        os.close(fd)

    def _receive(self, timeout_s: float) -> bytes:
        try:
            self.arrived_s, data = self._pieces.get(timeout=timeout_s)
        except queue.Empty:
            return b""
        self._is_open = bool(data)
        if b"\x1b[?2026$p" in data:
            os.write(self._fd, b"\x1b[?2026;2$y")
        return data


def go_first(task: int, priority: int) -> None:
    """Let a process or thread run before all that others do here, if that is wanted.

    For a machine that is shared: what is measured is then what an idle one would
    show, but for its caches. Only root may.
    """
    if is_realtime:
        os.sched_setscheduler(task, os.SCHED_RR, os.sched_param(priority))


def attach(path: Path, home: Path) -> TimedTerminal:
    """Start `opsdash attach` on a run; `home` holds its preferences and caches."""
    argv = [sys.executable, "-m", "opsdash", "attach", path]
    return TimedTerminal(argv, environment(home))


def environment(home: Path) -> dict[str, str | None]:
    """What an installed program finds: compiled modules, a home of its own."""
    return {
        "HOME": str(home),
        "XDG_CONFIG_HOME": str(home),
        "PYTHONPYCACHEPREFIX": str(home / "pyc"),
        "PYTHONDONTWRITEBYTECODE": None,
    }
