"""Attaching the dashboard to a run with a long past: its feed, folds and verdict.

Eight ranks have written five million events with a barrier in every step. Timed
is what runs under the screen: the first batch folded, which says where the run
stands now, and the verdict over all there is, past included. The peer reads what
there is, with `json`, and folds nothing. Then the commands, as processes. CPU time
is told beside: on a machine that is shared it says what an idle one would take.

    python benchmarks/attach_feed.py [--events 5000000] [--ranks 8] [--dir DIR]
"""

import argparse
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from agent.rundir.events import (
    CheckpointPublished,
    Event,
    Heartbeat,
    OptimizerNorms,
    RunStarted,
    StepDone,
    Wait,
)
from agent.rundir.layout import RunDir, rank_stem
from agent.rundir.process import this_process
from benchmarks.attach import (
    FIRST_S,
    VERDICT_S,
    forget,
    least,
    make_run,
    parse_all,
    row,
)
from benchmarks.table import Row, print_table
from opsdash.feed.reader import RunReader
from opsdash.projections.run import Run

START_NS = 1_790_000_000_000_000_000
STEP_NS = 100_000_000
LATE_RANK = 5


class Timing(NamedTuple):
    """One attach, in seconds."""

    first_s: float
    verdict_s: float
    cpu_s: float
    """Of the verdict."""
    num_folded: int
    last_step: int | None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=5_000_000)
    parser.add_argument("--ranks", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dir", type=Path)
    parser.add_argument("--keep", type=Path, help="make the run here, or use it")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.dir) as folder:
        run = RunDir(options.keep or Path(folder) / "run")
        if not run.identity.exists():
            make_run(run, options.events, options.ranks, made_up_events)
        return print_table(measure(run, options.rounds))


def measure(run: RunDir, num_rounds: int) -> Iterator[Row]:
    files = list(run.telemetry.rglob("*.jsonl"))
    log_bytes = sum(p.stat().st_size for p in files if ".rollup." not in p.name)
    first = run.telemetry_file(1, rank_stem(0))
    peer_s = least(1, lambda: parse_all(first)) * log_bytes / first.stat().st_size
    peer = f"json.loads of every line: {peer_s:.1f} s"
    print(f"{log_bytes / 1e9:.2f} GB of log")
    for state, emptied in (("cache warm", []), ("cache emptied", files)):
        timings = []
        for _ in range(num_rounds):
            forget(emptied)
            timings.append(attach(run))
        first_s = min(timing.first_s for timing in timings)
        verdict_s = min(timing.verdict_s for timing in timings)
        cpu_s = min(timing.cpu_s for timing in timings)
        yield row(f"first screen, {state}", first_s, peer, peer_s, FIRST_S)
        claim = f"verdict under a screen, {state} (CPU {cpu_s:.2f} s)"
        yield row(claim, verdict_s, peer, peer_s, VERDICT_S)
    for name, work in (("status", opsdash_status), ("events", opsdash_events)):
        before_s = cpu_of_children()
        command_s = least(num_rounds, partial(work, run))
        cpu_s = (cpu_of_children() - before_s) / num_rounds
        claim = f"`opsdash {name}` (CPU {cpu_s:.2f} s)"
        yield row(claim, command_s, peer, peer_s, VERDICT_S)


def cpu_of_children() -> float:
    """Return the CPU time of processes that were waited for, in seconds."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def attach(run: RunDir) -> Timing:
    """Read and fold until the verdict is over everything."""
    began, began_cpu = time.perf_counter(), time.process_time()
    reader, known, first_s, num_folded = RunReader(run), Run(), 0.0, 0
    while not known.is_caught_up:
        batch = reader.read()
        known.fold(batch)
        num_folded += batch.num_events
        if not first_s:
            known.verdict(time.monotonic_ns(), time.time_ns())
            first_s = time.perf_counter() - began
    known.verdict(time.monotonic_ns(), time.time_ns())
    verdict_s = time.perf_counter() - began
    cpu_s = time.process_time() - began_cpu
    straggler = known.lateness.straggler()
    assert straggler is not None
    assert straggler.rank == LATE_RANK
    return Timing(first_s, verdict_s, cpu_s, num_folded, known.steps.step)


def opsdash_status(run: RunDir) -> None:
    """Run the command; its exit code tells the state of the run."""
    command = [sys.executable, "-m", "opsdash", "status", str(run.path), "--json"]
    result = subprocess.run(command, capture_output=True, check=False)
    assert result.stdout.startswith(b"{")


def opsdash_events(run: RunDir) -> None:
    command = [sys.executable, "-m", "opsdash", "events", str(run.path), "--json"]
    result = subprocess.run(command, capture_output=True, check=True)
    assert result.stdout.startswith(b"{")


def made_up_events(rank: int, num: int) -> Iterator[Event]:
    """Nine steps and a beat, norms now and then; one rank comes late."""
    rng, here = random.Random(rank), this_process()
    for seq in range(num):
        step = seq * 9 // 10
        mono_ns = 1_774_219_738_944 + seq * STEP_NS
        common = {
            "time_ns": START_NS + seq * STEP_NS,
            "mono_ns": mono_ns,
            "node": f"rank-{rank}",
            "rank": rank,
            "seq": seq,
            "step": step,
        }
        if seq == 0:
            process = {"host": here.host, "boot_id": here.boot_id, "pid": here.pid}
            yield RunStarted(
                schema=1,
                run_id="cafe",
                attempt=1,
                run_kind="ddp",
                pid_start=1,
                world_size=8,
                **process,
                **common,
            )
        elif seq % 10 == 9:
            beat = {"phase": "training", "phase_age_ns": seq, "progress": seq}
            yield Heartbeat(**beat, **common)
        elif rank == 0 and seq % 10_000 == 5000:
            checkpoint = {"checkpoint": f"step-{step:08d}", "digest": "0" * 64}
            yield CheckpointPublished(size_bytes=10**9, **checkpoint, **common)
        elif seq % 100 == 50:
            yield OptimizerNorms(optimizer="AdamW", grad=rng.random(), **common)
        else:
            late_ns = 30_000_000 if rank == LATE_RANK else rng.randrange(10**6)
            arrived_ns = mono_ns - 40_000_000 + late_ns
            yield StepDone(
                loss=rng.random(),
                lr=3e-4,
                grad_norm=rng.random(),
                num_tokens=4096,
                step_ns=STEP_NS,
                waits=(Wait("step.agree", step, arrived_ns, mono_ns - arrived_ns),),
                **common,
            )


if __name__ == "__main__":
    sys.exit(main())
