"""Real trainers as processes: start them, follow them, kill them, clean up.

Waiting is for an event in the telemetry, never for time to pass; a run that
ends without it fails at once, with what it printed.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from agent.rundir.events import AnyEvent, Event, StepDone, decode_lines
from agent.rundir.layout import RunDir, rank_stem
from agent.rundir.tail import Tail

ROOT = Path(__file__).parent.parent
DEADLINE_S = 120.0
SMALL = (
    *("--width", "48", "--layers", "2", "--heads", "2", "--block", "48"),
    *("--batch-size", "4", "--warmup-steps", "5", "--log-every", "0"),
    *("--eval-every", "0", "--eval-samples", "8"),
)
"""A model that takes some ten milliseconds per step."""


@dataclass
class Trainer:
    """One started command and the run it works on."""

    process: subprocess.Popen[bytes]
    run: RunDir
    output: Path
    _known: set[int] = field(default_factory=set)

    def text(self) -> str:
        """Return what it has printed so far."""
        return self.output.read_text(errors="replace")

    def wait(self) -> int:
        """Return its exit code once it has ended by itself."""
        return self.process.wait(DEADLINE_S)

    def pids(self) -> list[int]:
        """Return the launcher and all that it started, as of now."""
        with contextlib.suppress(psutil.Error):
            own = psutil.Process(self.process.pid)
            self._known |= {own.pid, *(p.pid for p in own.children(recursive=True))}
        return sorted(self._known)

    def kill(self, signum: int = signal.SIGKILL) -> None:
        """Send a signal to the launcher and to every rank, one after the other."""
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signum)
        if signum == signal.SIGKILL:
            self.process.wait(DEADLINE_S)

    def rank_pid(self, rank: int, attempt: int = 1) -> int:
        """Return the process of one rank, once it has said that it runs."""
        started = self.wait_for(lambda e: hasattr(e, "pid"), rank=rank, attempt=attempt)
        return started.pid

    def wait_for_step(self, step: int, attempt: int = 1) -> None:
        """Wait until rank 0 has completed a step."""
        self.wait_for(
            lambda e: isinstance(e, StepDone) and e.step >= step, attempt=attempt
        )

    def wait_for(
        self,
        matches: Callable[[AnyEvent], bool],
        *,
        rank: int = 0,
        attempt: int = 1,
    ) -> AnyEvent:
        """Return the first event of a rank that matches, once it is written."""
        tail = Tail(self.run.telemetry_file(attempt, rank_stem(rank)))
        deadline = time.monotonic() + DEADLINE_S
        while time.monotonic() < deadline:
            has_ended = self.process.poll() is not None
            data = tail.read()
            for event in decode_lines(data):
                if isinstance(event, Event) and matches(event):
                    return event
            if not data and has_ended:
                break
            if not data:
                time.sleep(0.005)
        raise AssertionError(f"no such event; it printed:\n{self.text()}")


Start = Callable[..., Trainer]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start trainer commands, and leave no process behind."""
    started: list[Trainer] = []

    def run(run_dir: Path, *command: str, env: dict[str, str] | None = None) -> Trainer:
        output = tmp_path / f"output-{len(started)}.txt"
        with output.open("wb") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", "trainer", *command],
                cwd=ROOT,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=os.environ | {"OMP_NUM_THREADS": "1"} | (env or {}),
            )
        started.append(Trainer(process, RunDir(run_dir), output))
        return started[-1]

    yield run
    for trainer in started:
        trainer.kill()


@pytest.fixture
def launch(start: Start) -> Start:
    """Start `trainer launch ddp` on a small model."""

    def run(run_dir: Path, num_ranks: int, *flags: str, **options) -> Trainer:
        arguments = ("launch", "ddp", str(run_dir), "--nproc", str(num_ranks))
        return start(run_dir, *arguments, *SMALL, *flags, **options)

    return run


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Give a file system of four megabytes, where mounting one is allowed."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(place)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small file system needs root")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def events(run_dir: Path, rank: int = 0) -> list[tuple[int, AnyEvent]]:
    """Return every event of a rank with its attempt, oldest first."""
    run = RunDir(run_dir)
    found = []
    for attempt in sorted(int(p.name) for p in run.telemetry.iterdir()):
        path = run.telemetry_file(attempt, rank_stem(rank))
        if path.exists():
            found += [(attempt, event) for event in decode_lines(path.read_bytes())]
    return found


def joined_losses(run_dir: Path, rank: int = 0) -> dict[int, float]:
    """Return the loss of each step as the highest attempt saw it."""
    losses = {}
    for _, event in events(run_dir, rank):
        if isinstance(event, StepDone):
            losses[event.step] = event.loss
    return losses
