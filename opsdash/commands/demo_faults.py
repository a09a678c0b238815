"""Make a demo's run sick, with the faults that runs really have.

Processes are stopped and killed by signals, bytes are flipped on the disk: what
the dashboard shows is what it would show of any run. A fault waits until the
run has come far enough, and is taken back when the demo is left.
"""

import contextlib
import os
import signal
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from agent.rundir.checkpoints import Stage, list_checkpoints
from agent.rundir.errors import RunDirError
from agent.rundir.events import ClientUpdate, RoundCommitted, StepDone, decode_lines
from agent.rundir.layout import RunDir, rank_stem
from agent.rundir.process import Liveness, ProcessId, liveness
from agent.rundir.stacks import list_headers
from agent.rundir.tail import Tail

_POLL_S = 0.1
_AFTER_STEP, _AFTER_ROUND = 30, 5
_VICTIM_RANK, _VICTIM_CLIENT = 1, "client-1"
_STOPPED_S, _RUNNING_S = 0.24, 0.08
_HUNG_S = 120.0
"""Then it goes on, so that a demo that nobody watches ends."""
_AWAY_S = 12.0
"""A client that is silent counts as gone after six seconds, and holds its round up
for two more: it comes back to a federation that went on without it."""

WORDS = {
    "straggler": "is stopped three quarters of the time, a bit at a time",
    "hang": "is stopped for two minutes",
    "kill": "is killed",
    "corrupt": "has a bit flipped on the disk: v reads it again",
    "reconnect": f"is stopped for {_AWAY_S:.0f} s, then goes on",
}


class NoSuchFaultError(RunDirError):
    """A fault that this kind of run cannot have."""


def check_fault(kind: str, fault: str) -> None:
    """Make sure that a kind of run can have a fault.

    Raises:
        NoSuchFaultError: it cannot.
    """
    if fault == "reconnect" and kind != "fl":
        raise NoSuchFaultError(
            "ranks of a data-parallel run do not come back: that is for clients",
            hint="opsdash demo fl --fault reconnect",
        )


class Fault:
    """One fault in one run, done by a thread of its own."""

    def __init__(self, run: RunDir, kind: str, fault: str) -> None:
        """Prepare; nothing happens before `applied`."""
        check_fault(kind, fault)
        self._run = run
        self._is_federated = kind == "fl"
        self._fault = fault
        self._stopping = threading.Event()
        self._stopped: ProcessId | None = None
        self._thread = threading.Thread(
            target=self._work, name="opsdash-fault", daemon=True
        )

    @property
    def words(self) -> str:
        """What will happen to whom, and when."""
        if self._is_federated:
            whose, when = _VICTIM_CLIENT, f"round {_AFTER_ROUND}"
        else:
            whose, when = f"rank {_VICTIM_RANK}", f"step {_AFTER_STEP}"
        if self._fault == "corrupt":
            whose = f"the store of {whose}" if self._is_federated else "a checkpoint"
        return f"fault: after {when}, {whose} {WORDS[self._fault]}"

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Do it for the length of a block; a stopped process goes on afterwards."""
        self._thread.start()
        try:
            yield
        finally:
            self.undo()

    def undo(self) -> None:
        """Do no more, and let a process that was stopped go on."""
        self._stopping.set()
        self._thread.join()
        self._let_go()

    def _work(self) -> None:
        if not self._wait_until_ripe():
            return
        actions: dict[str, Callable[[], None]] = {
            "straggler": self._slow_down,
            "hang": self._stop,
            "kill": self._kill,
            "corrupt": self._corrupt,
            "reconnect": self._cut_off,
        }
        with contextlib.suppress(OSError, sqlite3.Error):
            actions[self._fault]()

    def _wait_until_ripe(self) -> bool:
        """Return once the run has come far enough; False: the demo is left."""
        stem = "server" if self._is_federated else rank_stem(0)
        tail = Tail(self._run.telemetry_file(1, stem))
        while not self._stopping.wait(_POLL_S):
            try:
                events = decode_lines(tail.read())
            except OSError:
                continue
            if any(_is_ripe(event) for event in events):
                return True
        return False

    def _victim(self) -> ProcessId | None:
        """Return the process that suffers, if it is there to be signalled."""
        node = _VICTIM_CLIENT if self._is_federated else f"rank-{_VICTIM_RANK}"
        for header in list_headers(self._run, 1):
            if header.node == node and liveness(header.process) is Liveness.ALIVE:
                return header.process
        return None

    def _signal(self, number: int) -> bool:
        victim = self._victim()
        if victim is None:
            return False
        os.kill(victim.pid, number)
        self._stopped = victim if number == signal.SIGSTOP else None
        return True

    def _slow_down(self) -> None:
        while self._signal(signal.SIGSTOP):
            self._stopping.wait(_STOPPED_S)
            self._signal(signal.SIGCONT)
            if self._stopping.wait(_RUNNING_S):
                return

    def _stop(self) -> None:
        self._signal(signal.SIGSTOP)
        self._stopping.wait(_HUNG_S)
        self._let_go()

    def _kill(self) -> None:
        self._signal(signal.SIGKILL)

    def _cut_off(self) -> None:
        self._signal(signal.SIGSTOP)
        self._stopping.wait(_AWAY_S)
        self._let_go()

    def _let_go(self) -> None:
        """Let a process that was stopped go on, if it is still that process."""
        stopped, self._stopped = self._stopped, None
        if stopped is not None and liveness(stopped) is Liveness.ALIVE:
            with contextlib.suppress(OSError):
                os.kill(stopped.pid, signal.SIGCONT)

    def _corrupt(self) -> None:
        if self._is_federated:
            _flip_in_store(self._run.chunk_store(_VICTIM_CLIENT))
            return
        while not self._stopping.is_set():
            for entry in list_checkpoints(self._run):
                if entry.stage is Stage.VERIFIED:
                    _flip_in_file(entry.path / "state.pt")
                    return
            self._stopping.wait(_POLL_S)


def _is_ripe(event: object) -> bool:
    if isinstance(event, StepDone):
        return (event.step or 0) >= _AFTER_STEP
    if isinstance(event, RoundCommitted | ClientUpdate):
        return (event.round_num or 0) >= _AFTER_ROUND
    return False


def _flip_in_file(path: Path) -> None:
    with path.open("r+b") as file:
        place = path.stat().st_size // 2
        file.seek(place)
        byte = file.read(1)
        file.seek(place)
        file.write(bytes([byte[0] ^ 1]))


def _flip_in_store(path: Path) -> None:
    """Flip a bit of a chunk of the newest round, beside the store that runs."""
    with contextlib.closing(sqlite3.connect(path, timeout=10)) as store, store:
        rowid, data = store.execute(
            """SELECT d.rowid, d.data FROM chunk_data d JOIN chunk_metadata m
               ON m.chunk_hash = d.chunk_hash ORDER BY m.round_num DESC LIMIT 1"""
        ).fetchone()
        flipped = bytes([data[0] ^ 1]) + bytes(data[1:])
        store.execute(
            "UPDATE chunk_data SET data = ? WHERE rowid = ?", (flipped, rowid)
        )
