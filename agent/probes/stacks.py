"""Python stacks of this process, also when it cannot run Python any more.

`faulthandler` writes from inside a signal handler, so the stacks of a process
come even while native code holds the GIL and this thread is frozen with the
rest. The signal is registered at attach, is never one that something else has
taken, and is only sent to processes whose file says so and whose kernel mask
shows a handler: otherwise it would kill them. A trainer that sets a handler of
its own later keeps it. A stopped process writes nothing; what `/proc` knows of
it is told instead.
"""

import contextlib
import faulthandler
import os
import signal
import time
from pathlib import Path
from typing import IO

from agent.emitter import Emitter
from agent.rundir.events import StacksWritten
from agent.rundir.layout import RunDir, rank_stem
from agent.rundir.process import Liveness, liveness, this_process
from agent.rundir.readable import readable
from agent.rundir.stacks import (
    StacksHeader,
    encode_header,
    stacks_file,
    withdraw_signal,
)

_FLAGS = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK

SIGNAL_VARIABLE = "OPSDASH_STACKS_SIGNAL"
"""A signal's name or number, or `off`; without it SIGUSR2, unless that is taken."""

_UNUSABLE = frozenset(
    (
        signal.SIGKILL,
        signal.SIGSTOP,
        signal.SIGSEGV,
        signal.SIGFPE,
        signal.SIGABRT,
        signal.SIGBUS,
        signal.SIGILL,
    )
)
"""Those that nobody can catch, and those that `faulthandler` keeps for crashes."""


class Stacks:
    """This process's stacks file, and the signal that makes it write there."""

    def __init__(self, emitter: Emitter, run: RunDir, attempt: int) -> None:
        """Make it; `register` opens the file."""
        self.signum = free_signal()
        self._emitter = emitter
        self._run = run
        rank = emitter.rank
        stem = emitter.node if rank is None else rank_stem(rank)
        self._path = stacks_file(run, attempt, stem)
        self._file: IO[bytes] | None = None
        self._handler: object = None
        """What Python would have called for the signal when it was registered."""

    @property
    def file(self) -> str:
        """Relative to the run directory."""
        return str(self._path.relative_to(self._run.path))

    def register(self) -> None:
        """Open the file, say who writes there, and wait for the signal.

        Raises:
            OSError: the file cannot be written.
        """
        self._path.parent.mkdir(parents=True, exist_ok=True)
        # Non-blocking: it may be a FIFO that lies there.
        fd = os.open(self._path, _FLAGS, 0o666)
        file = os.fdopen(fd, "ab", buffering=0)
        header = StacksHeader(
            node=self._emitter.node,
            rank=self._emitter.rank,
            process=this_process(),
            signum=self.signum,
        )
        file.write(encode_header(header))
        if self.signum is not None:
            if self._file is None:
                # Where a trainer took it from an earlier agent of this process,
                # `faulthandler` would think that its own handler still stands.
                faulthandler.unregister(self.signum)
            # Without `chain` interrupted system calls are restarted, and the
            # default action, which would end the process, is not called.
            faulthandler.register(self.signum, file=file, all_threads=True)
            self._handler = signal.getsignal(self.signum)
        old, self._file = self._file, file
        if old is not None:
            old.close()

    def look(self) -> None:
        """Leave the signal to who has taken it since, and see to the file.

        Raises:
            OSError: it cannot be written that the signal is taken.
        """
        signum = self.signum
        if self._file is not None and signum is not None and self._is_taken():
            # Else the trainer would be told to do whatever it uses it for.
            self.signum = None
            withdraw_signal(self._path, signum)
        self.register_again_if_removed()

    def register_again_if_removed(self) -> None:
        """Make the file again if it is gone and the run's telemetry is there.

        Where that is not, the disk is gone, and its mount point is not to be filled.
        """
        with contextlib.suppress(OSError):
            if not self._is_in_place() and self._run.telemetry.is_dir():
                self.register()

    def _is_in_place(self) -> bool:
        if self._file is None:
            return False
        try:
            there = self._path.stat()
        except OSError:
            return False
        return os.path.samestat(there, os.fstat(self._file.fileno()))

    def _is_taken(self) -> bool:
        """Whether a handler of the trainer's own was set after ours."""
        assert self.signum is not None
        return signal.getsignal(self.signum) is not self._handler

    def write(self, reason: str) -> bool:
        """Write the stacks of all threads now, from this one, and tell so.

        Returns whether there is a file to write to; that there is none is told too.

        Raises:
            OSError: it cannot be written.
        """
        if self._file is None:
            why = f"{reason}: none of this process: its file is not open"
            self._tell(why, has_stacks=False)
            return False
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        self._file.write(f"\n{now} {readable(reason)}\n".encode())
        faulthandler.dump_traceback(self._file, all_threads=True)
        self._tell(reason, has_stacks=True)
        return True

    def _tell(self, reason: str, *, has_stacks: bool) -> None:
        self._emitter.emit(
            StacksWritten, file=self.file, reason=reason, has_stacks=has_stacks
        )

    def close(self) -> None:
        """Leave the signal to others again."""
        file, self._file = self._file, None
        if file is None:
            return
        if self.signum is not None and not self._is_taken():
            # From here on the signal would kill; a sender looks at the mask.
            faulthandler.unregister(self.signum)
        file.close()


def free_signal() -> int | None:
    """Return the signal to register; None: it is taken, or switched off.

    The kernel's masks also know handlers that were not set from Python.
    """
    wanted = os.environ.get(SIGNAL_VARIABLE, "SIGUSR2")
    try:
        signum = int(signal.Signals(int(wanted)))
    except ValueError:
        signum = int(signal.Signals.__members__.get(wanted, 0))
    status = read_status(os.getpid())
    taken = _mask(status, "SigCgt") | _mask(status, "SigIgn")
    if not signum or signum in _UNUSABLE or taken >> (signum - 1) & 1:
        return None
    return signum


def ask_for_stacks(header: StacksHeader) -> str | None:
    """Make another process of this host write; return why it will not.

    Source: proc(5), `SigCgt` is the mask of signals that are caught.
    """
    if liveness(header.process) is not Liveness.ALIVE:
        where = header.process.host
        return f"process {header.process.pid} on `{where}` cannot be seen from here"
    if not header.signum:
        return "no signal was free to ask it for its stacks"
    status = read_status(header.process.pid)
    if is_stopped(header.process.pid):
        return f"the process is stopped: {describe(header.process.pid)}"
    if not _mask(status, "SigCgt") >> (header.signum - 1) & 1:
        return "it does not listen to its signal any more"
    try:
        os.kill(header.process.pid, header.signum)
    except OSError as error:
        return f"it cannot be signalled: {error.strerror}"
    return None


def is_stopped(pid: int) -> bool:
    """Whether a process was stopped, or is held by a debugger."""
    return read_status(pid).get("State", "?")[:1] in ("T", "t")


def describe(pid: int) -> str:
    """Return what the kernel knows about a process, in words."""
    state = read_status(pid).get("State", "gone")
    with contextlib.suppress(OSError):
        place = Path(f"/proc/{pid}/wchan").read_text()
        if place not in ("", "0"):
            return f"state {state}, waiting in {place}"
    return f"state {state}"


def read_status(pid: int) -> dict[str, str]:
    """Return `/proc/<pid>/status`; empty: the process is gone."""
    try:
        text = Path(f"/proc/{pid}/status").read_text(errors="replace")
    except OSError:
        return {}
    pairs = (line.split(":", 1) for line in text.splitlines() if ":" in line)
    return {name: value.strip() for name, value in pairs}


def _mask(status: dict[str, str], name: str) -> int:
    return int(status.get(name, "0"), 16)
