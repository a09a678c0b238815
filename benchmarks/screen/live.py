"""A run that is written while somebody watches: a program, and what starts it.

Ranks finish steps at a fixed rate, beat once a second, and tell of their host
and of norms now and then, as a trainer's agent does. Nothing is computed.
"""

import argparse
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agent.rundir import events as ev
from benchmarks.screen.terminal import ROOT, WRITER, go_first
from tests.runs import SECOND, RunWriter

_NORMS_EVERY = 10
_HOST_EVERY_S = 5


@contextmanager
def live_run(
    path: Path, *, ranks: int, steps_per_s: float, past: int = 300
) -> Iterator[Path]:
    """Have a run written below `path` by another process until the context ends."""
    argv = [sys.executable, "-m", "benchmarks.screen.live", str(path)]
    argv += ["--ranks", str(ranks), "--steps-per-s", str(steps_per_s)]
    argv += ["--past", str(past)]
    with subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE) as writer:
        go_first(writer.pid, WRITER)
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"ready\n"
        try:
            yield path
        finally:
            writer.kill()


def begin(path: Path, *, ranks: int, past: int, step_s: float) -> RunWriter:
    """Begin a run that has some steps behind it."""
    run = RunWriter(path, world_size=ranks)
    run.mono_ns = time.monotonic_ns()
    run.wait(-past * step_s)
    run.begin()
    for step in range(1, past + 1):
        finish_step(run, step, int(step_s * SECOND))
    run.beat()
    return run


def finish_step(run: RunWriter, step: int, step_ns: int) -> None:
    """Let every rank finish a step that took `step_ns`, at the writer's clocks."""
    run.wait(step_ns / SECOND)
    released_ns = run.mono_ns - 5_000_000
    for rank in range(run.world_size):
        arrived_ns = released_ns - random.randrange(3_000_000)
        wait = ev.Wait("step.agree", step, arrived_ns, released_ns - arrived_ns)
        run.emit(
            rank,
            ev.StepDone,
            step=step,
            loss=0.4 + 3 / (1 + step / 200) + random.gauss(0, 0.05),
            lr=1e-3,
            grad_norm=0.5 + random.gauss(0, 0.02),
            num_tokens=4_096,
            step_ns=step_ns + random.randrange(1_000_000),
            waits=(wait,),
        )
    if step % _NORMS_EVERY == 0:
        state = {"exp_avg": random.random(), "exp_avg_sq": random.random()}
        norms = {"grad": 0.5, "param": 10.0, "update_ratio": 0.01, "state": state}
        run.emit(0, ev.OptimizerNorms, optimizer="AdamW", step=step, **norms)


def tell_hosts(run: RunWriter) -> None:
    """Let every rank tell of its process and host."""
    for rank in range(run.world_size):
        run.emit(
            rank,
            ev.HostStats,
            cpu_frac=0.9 + random.random() / 10,
            rss_bytes=(900 << 20) + random.randrange(1 << 20),
            num_threads=9,
            num_fds=40,
            host_cpu_frac=0.5,
            mem_free_bytes=16 << 30,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", type=Path)
    parser.add_argument("--ranks", type=int, required=True)
    parser.add_argument("--steps-per-s", type=float, required=True)
    parser.add_argument("--past", type=int, default=300)
    options = parser.parse_args()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    step_s = 1 / options.steps_per_s
    run = begin(options.path, ranks=options.ranks, past=options.past, step_s=step_s)
    print("ready", flush=True)
    write_on(run, options.past, step_s)


def write_on(run: RunWriter, step: int, step_s: float) -> None:
    """Finish steps at their rate for ever; beats and hosts come in between."""
    lead_s = time.time() - run.time_ns / SECOND
    num_beats = 0
    while True:
        step += 1
        late_s = time.time() - lead_s - (run.time_ns / SECOND + step_s)
        if late_s < 0:
            time.sleep(-late_s)
        finish_step(run, step, int(step_s * SECOND))
        if step * step_s >= num_beats:
            num_beats = int(step * step_s) + 1
            run.beat()
            if num_beats % _HOST_EVERY_S == 0:
                tell_hosts(run)


if __name__ == "__main__":
    main()
