"""Real runs to be pictured: trainers as processes, and the faults that they get.

Every run lies below the working directory, so that pictures show a short path
that says nothing of this machine. Waiting is for an event in the telemetry.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

from agent.rundir.events import AnyEvent, StepDone, decode_lines
from agent.rundir.layout import RunDir
from agent.rundir.tail import Tail
from opsdash.commands.demo_faults import Fault

ROOT = Path(__file__).parent.parent
DDP = (
    *("--nproc", "2", "--width", "96", "--layers", "3", "--heads", "3"),
    *("--save-every", "50", "--eval-every", "50", "--norms-every", "5"),
)
PATIENCE_S = 300.0


class Training:
    """A trainer that was started, and the run that it leaves."""

    def __init__(self, kind: str, name: str, *flags: str) -> None:
        """Start it; `name` is its directory's."""
        self.kind, self.run = kind, RunDir(Path(name))
        settings = DDP if kind == "ddp" else ("--clients", "3")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "trainer", "launch", kind, name, *settings, *flags],
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def __enter__(self) -> "Training":
        return self

    def __exit__(self, *_: object) -> None:
        """End it as a power cut would."""
        with contextlib.suppress(psutil.NoSuchProcess):
            parent = psutil.Process(self._process.pid)
            for one in [*parent.children(recursive=True), parent]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    one.send_signal(signal.SIGKILL)
        self._process.wait()

    def wait(self) -> None:
        """Wait until it has ended by itself."""
        self._process.wait(PATIENCE_S)

    def wait_for_step(self, step: int) -> None:
        """Wait until rank 0 has completed a step."""
        self.wait_for(lambda e: isinstance(e, StepDone) and (e.step or 0) >= step)

    def wait_for(self, is_it: Callable[[AnyEvent], bool]) -> None:
        """Wait for an event of rank 0 or the server; it may lie in the past.

        Raises:
            SystemExit: the trainer ended without it, or it took too long.
        """
        stem = "rank-00000" if self.kind == "ddp" else "server"
        tail = Tail(self.run.telemetry_file(1, stem))
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            has_ended = self._process.poll() is not None
            events = decode_lines(tail.read())
            if any(is_it(event) for event in events):
                return
            if has_ended:
                raise SystemExit(f"the trainer ended with {self._process.returncode}")
            time.sleep(0.1)
        raise SystemExit(f"nothing came of `{self.run.path}` in {PATIENCE_S:.0f} s")

    def suffers(self, fault: str) -> contextlib.AbstractContextManager[None]:
        """Make the run sick for the length of a block, as `opsdash demo` does."""
        return Fault(self.run, self.kind, fault).applied()


def flip_a_byte(path: Path) -> None:
    """Change one bit in the middle of a file."""
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))


@contextlib.contextmanager
def at_home(folder: Path) -> Iterator[None]:
    """Work in a folder, and come back."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
