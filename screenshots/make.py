"""Make the pictures: real runs, the real dashboard in a terminal, its screen as PNG.

Two DDP runs are trained on this machine: one that ends well and one that is
killed in the middle; a byte of the second one's newest checkpoint is flipped.
Nothing on the pictures is written by hand.
"""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil

from agent.rundir.checkpoints import list_checkpoints
from agent.rundir.events import StepDone, decode_lines
from agent.rundir.layout import RunDir
from screenshots import raster
from tests.pty_terminal import PtyTerminal

ROOT = Path(__file__).parent.parent
OUT = ROOT / "screenshots"
SIZES = {"wide": (120, 36), "small": (80, 24)}
ENVIRONMENT = {"COLORTERM": "truecolor", "TERM": "xterm-256color"}
TRAINING = ("--save-every", "50", "--eval-every", "50", "--norms-every", "5")


def main() -> int:
    """Make every picture; name what was made."""
    # Pictures show the path: a short one that says nothing of this machine.
    with tempfile.TemporaryDirectory(prefix="opsdash-") as folder:
        runs = Path(folder) / "runs"
        runs.mkdir()
        with _at_home(runs):
            _live(Path("ddp-1"))
            _killed(Path("ddp-2"))
    return 0


def _live(run: Path) -> None:
    """Every pane of a run while it trains, then of the same run when it ended."""
    with _training(run, steps=300) as process:
        _wait_for_step(run, 120, process)
        for name, size in SIZES.items():
            with _watching(run, size) as terminal:
                terminal.wait_for("healthy")
                _take(terminal, f"overview-{name}")
                for key, pane in (("2", "barriers"), ("4", "optimizer")):
                    terminal.send(key)
                    terminal.settle(0.5)
                    _take(terminal, f"{pane}-{name}")
    for name, size in SIZES.items():
        with _watching(run, size) as terminal:
            terminal.wait_for("finished")
            terminal.send("3")
            terminal.wait_for("resumable")
            terminal.send("v")
            terminal.wait_for("sound:")
            _take(terminal, f"checkpoints-{name}")
            for key, pane in (("5", "chunks"), ("6", "rounds"), ("7", "events")):
                terminal.send(key)
                terminal.settle(0.5)
                _take(terminal, f"{pane}-ddp-{name}")


def _killed(run: Path) -> None:
    """A run that was killed, with a damaged checkpoint, and the plan to resume it."""
    with _training(run, steps=2_000) as process:
        _wait_for_step(run, 120, process)
    newest = list_checkpoints(RunDir(run))[0]
    _flip_a_byte(newest.path / "state.pt")
    for name, size in SIZES.items():
        with _watching(run, size) as terminal:
            terminal.wait_for("dead")
            _take(terminal, f"dead-{name}")
            terminal.send("3")
            terminal.wait_for(newest.name)
            terminal.send("v")
            terminal.wait_for("failed verify")
            _take(terminal, f"damaged-{name}")
            terminal.send("1")
            terminal.send("r")
            terminal.wait_for("enter confirms")
            _take(terminal, f"resume-plan-{name}")
            terminal.send("\x1b")


@contextlib.contextmanager
def _at_home(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


@contextlib.contextmanager
def _training(run: Path, *, steps: int) -> Iterator["subprocess.Popen[bytes]"]:
    """Train while the block lasts; wait for the end, or kill what has not ended."""
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "trainer", "launch", "ddp", str(run)),
            *("--nproc", "2", "--steps", str(steps), *TRAINING),
        ],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
    )
    try:
        yield process
        if steps < 1_000:
            process.wait()
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            parent = psutil.Process(process.pid)
            for one in [*parent.children(recursive=True), parent]:
                one.send_signal(signal.SIGKILL)
        process.wait()


def _wait_for_step(run: Path, step: int, process: "subprocess.Popen[bytes]") -> None:
    file = RunDir(run).telemetry_file(1, "rank-00000")
    while True:
        if process.poll() is not None:
            raise SystemExit(f"the trainer ended with {process.returncode}")
        with contextlib.suppress(FileNotFoundError):
            steps = [e for e in decode_lines(file.read_bytes()) if type(e) is StepDone]
            if steps and (steps[-1].step or 0) >= step:
                return
        time.sleep(0.2)


@contextlib.contextmanager
def _watching(run: Path, size: Sequence[int]) -> Iterator[PtyTerminal]:
    terminal = PtyTerminal(
        [sys.executable, "-m", "opsdash", "attach", run],
        columns=size[0],
        rows=size[1],
        env={**ENVIRONMENT, "PYTHONPATH": str(ROOT)},
    )
    with terminal:
        yield terminal
        terminal.send("q")
        terminal.exit_code()


def _take(terminal: PtyTerminal, name: str) -> None:
    terminal.settle(0.6)
    path = raster.draw(raster.from_pyte(terminal.terminal), OUT / f"{name}.png")
    print(path.relative_to(ROOT))


def _flip_a_byte(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))


if __name__ == "__main__":
    raise SystemExit(main())
