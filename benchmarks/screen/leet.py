"""The same six series as an opsdash run and as a `wandb` run, row by row.

One program writes both at the same moments, so that the dashboard and W&B LEET
can be watched side by side. The peer is looked for beside this interpreter.
"""

import argparse
import math
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agent.rundir import events as ev
from benchmarks.screen.terminal import ROOT, TimedTerminal, environment
from tests.runs import RunWriter

ROWS_PER_S = 10


def leet() -> str | None:
    """Return the `wandb` command; None: it is not installed."""
    return shutil.which("wandb", path=str(Path(sys.executable).parent))


def attach_leet(path: Path, home: Path) -> TimedTerminal:
    """Start LEET on a run that `both_runs` writes."""
    command = leet()
    assert command is not None
    quiet = {"WANDB_ERROR_REPORTING": "false", "WANDB_CONFIG_DIR": str(home)}
    argv = [command, "leet", "run", str(path)]
    return TimedTerminal(argv, environment(home) | quiet)


@contextmanager
def both_runs(folder: Path, *, past: int) -> Iterator[tuple[Path, Path]]:
    """Have both runs written until the context ends; yield ours and theirs."""
    argv = [sys.executable, "-m", "benchmarks.screen.leet", str(folder), str(past)]
    with subprocess.Popen(
        argv, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as writer:
        assert writer.stdout is not None
        theirs = Path(writer.stdout.readline().decode().strip())
        try:
            yield folder / "run", theirs
        finally:
            writer.terminate()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("past", type=int, help="rows that are there at once")
    options = parser.parse_args()

    import wandb  # noqa: PLC0415 - a peer that may be missing

    settings = wandb.Settings(console="off", silent=True)
    theirs = wandb.init(
        mode="offline", project="bench", dir=options.folder, settings=settings
    )
    ours = RunWriter(options.folder / "run", world_size=1)
    ours.mono_ns = time.monotonic_ns()
    ours.begin()
    for step in range(1, options.past + 1):
        write_row(ours, theirs, step)
    print(Path(theirs.dir).parent, flush=True)
    began_s = time.monotonic()
    while True:
        step += 1
        due_s = began_s + (step - options.past) / ROWS_PER_S
        time.sleep(max(0.0, due_s - time.monotonic()))
        write_row(ours, theirs, step)


def write_row(ours: RunWriter, theirs: object, step: int) -> None:
    """Write one step's six numbers to both."""
    loss = 0.4 + 3 / (1 + step / 200) + 0.05 * math.sin(step * 1.7)
    wave = 1 + 0.1 * math.sin(step / 9)
    ours.wait(1 / ROWS_PER_S)
    ours.emit(
        0,
        ev.StepDone,
        step=step,
        loss=loss,
        lr=1e-3 * wave,
        grad_norm=0.5 * wave,
        num_tokens=4_096,
        step_ns=100_000_000,
    )
    norms = {"grad": 0.5 * wave, "param": 10 * wave, "update_ratio": 0.01 * wave}
    state = {"exp_avg": 0.25 * wave}
    ours.emit(0, ev.OptimizerNorms, optimizer="AdamW", step=step, state=state, **norms)
    if step % ROWS_PER_S == 0:
        ours.beat()
    theirs.log({"loss": loss, "lr": 1e-3 * wave, "exp_avg": 0.25 * wave, **norms})


if __name__ == "__main__":
    main()
