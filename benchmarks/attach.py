"""Attaching to a run with a long past: five million events, over a gigabyte.

Eight ranks have written for days; their logs lie in segments with roll-ups
beside them. Timed are the last lines of every rank, which a first screen shows,
and the whole past folded into the verdict. The peer reads what there is, with
`json`, and folds nothing. Once with the page cache warm and once emptied.

    python benchmarks/attach.py [--events 5000000] [--ranks 8] [--dir DIR]
"""

import argparse
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from agent.emitter import SEGMENT_BYTES
from agent.rundir.events import (
    CheckpointPublished,
    Event,
    Heartbeat,
    StepDone,
    Undecodable,
    decode_lines,
    encode,
)
from agent.rundir.history import History
from agent.rundir.layout import RunDir, rank_stem
from agent.rundir.tail import Tail
from agent.start import begin_run
from agent.writing.rollups import RollupWriter
from benchmarks.table import Row, at_most, print_table, times
from opsdash.projections.batch import Batch, Directory, Lines, Origin
from opsdash.projections.run import Run

FIRST_S = 0.3
VERDICT_S = 1.0

MakeUp = Callable[[int, int], Iterator[Event]]
"""A rank and a number of events to the events."""


class Timing(NamedTuple):
    """One attach, in seconds."""

    first_s: float
    verdict_s: float
    num_folded: int
    last_step: int | None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=5_000_000)
    parser.add_argument("--ranks", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dir", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.dir) as folder:
        run = RunDir(Path(folder) / "run")
        make_run(run, options.events, options.ranks)
        return print_table(measure(run, options.ranks, options.rounds))


def measure(run: RunDir, num_ranks: int, num_rounds: int) -> Iterator[Row]:
    rollups = [run.rollup_file(1, rank_stem(rank)) for rank in range(num_ranks)]
    logs = [p for p in run.telemetry_file(1, "x").parent.iterdir() if p not in rollups]
    log_bytes = sum(path.stat().st_size for path in logs)
    rollup_frac = sum(path.stat().st_size for path in rollups) / log_bytes
    print(f"{log_bytes / 1e9:.2f} GB of log in {len(logs)} files")
    yield Row(
        "size of the roll-ups",
        f"{rollup_frac:.2%} of the log",
        "",
        target="≤ 1 %",
        is_met=rollup_frac <= 0.01,
    )
    peer_s = least(1, lambda: parse_all(run.telemetry_file(1, rank_stem(0))))
    peer_s *= log_bytes / run.telemetry_file(1, rank_stem(0)).stat().st_size
    peer = f"json.loads of every line: {peer_s:.1f} s"
    for state, empty in (("cache warm", None), ("cache emptied", [*logs, *rollups])):
        timings = []
        for _ in range(num_rounds):
            forget(empty or [])
            timings.append(attach(run, num_ranks))
        first_s = min(timing.first_s for timing in timings)
        verdict_s = min(timing.verdict_s for timing in timings)
        yield row(f"first tails, {state}", first_s, peer, peer_s, FIRST_S)
        yield row(f"complete verdict, {state}", verdict_s, peer, peer_s, VERDICT_S)


def row(claim: str, ours_s: float, peer: str, peer_s: float, limit_s: float) -> Row:
    ratio = times(ours_s, peer_s, least=None)
    target = at_most(ours_s, limit_s, "s")
    return Row(f"attach: {claim}", f"{ours_s:.3f} s", peer, **(ratio | target))


def attach(run: RunDir, num_ranks: int) -> Timing:
    """Show the newest lines of every rank, then fold the past and judge."""
    began = time.perf_counter()
    histories = [History(run, 1, rank_stem(rank)) for rank in range(num_ranks)]
    for history in histories:
        assert history.newest() is not None
    first_s = time.perf_counter() - began
    known, num_folded = Run(), 0
    for lines in all_lines(run, histories):
        num_folded += len(lines.events)
        known.fold(Batch(time.monotonic_ns(), time.time_ns(), Directory(), (lines,)))
    known.verdict(time.monotonic_ns(), time.time_ns())
    verdict_s = time.perf_counter() - began
    return Timing(first_s, verdict_s, num_folded, known.steps.step)


def all_lines(run: RunDir, histories: list[History]) -> Iterator[Lines]:
    """Yield every rank's past in turns, then what is younger than a window."""
    pasts = dict(enumerate(history.thinned() for history in histories))
    while pasts:
        for rank, past in list(pasts.items()):
            stretch = next(past, None)
            if stretch is None:
                del pasts[rank]
                continue
            yield lines_of(rank, stretch.events, stretch.offsets)
    for rank, history in enumerate(histories):
        segment, offset = history.position
        tail = Tail(run.telemetry_file(1, rank_stem(rank), segment), offset)
        while data := tail.read():
            events = decode_lines(data)
            yield lines_of(rank, events, range(len(events)))


def lines_of(rank: int, events, offsets) -> Lines:
    good = tuple(event for event in events if not isinstance(event, Undecodable))
    mono_ns = good[-1].mono_ns if good else 0
    stem = rank_stem(rank)
    origin = Origin(1, f"0001/{stem}.jsonl", stem, rank, 0, mono_ns, is_live=False)
    return Lines(origin, tuple(offsets), good)


def parse_all(path: Path) -> None:
    with path.open("rb") as file:
        for line in file:
            json.loads(line)


def least(num_rounds: int, work: Callable[[], None]) -> float:
    """Return the least time of a piece of work, in seconds."""
    found = []
    for _ in range(num_rounds):
        began = time.perf_counter()
        work()
        found.append(time.perf_counter() - began)
    return min(found)


def forget(paths: list[Path]) -> None:
    """Drop files from the page cache."""
    for path in paths:
        fd = os.open(path, os.O_RDONLY)
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)


def make_run(
    run: RunDir, num_events: int, num_ranks: int, make_up: MakeUp | None = None
) -> None:
    start = begin_run(run.path, kind="ddp")
    start.record(world_size=num_ranks)
    start.release()
    run.telemetry_file(1, "x").parent.mkdir(parents=True)
    each = num_events // num_ranks
    make_one = partial(make_rank, run, each, make_up or made_up_events)
    with ProcessPoolExecutor(2) as pool:
        list(pool.map(make_one, range(num_ranks)))


def make_rank(run: RunDir, num_events: int, make_up: MakeUp, rank: int) -> None:
    """Write one rank's segments and roll them up, as its agent would have."""
    stem, segment, size, lines = rank_stem(rank), 1, 0, []
    for event in make_up(rank, num_events):
        line = encode(event)
        lines.append(line)
        size += len(line)
        if size >= SEGMENT_BYTES:
            run.telemetry_file(1, stem, segment).write_bytes(b"".join(lines))
            segment, size, lines = segment + 1, 0, []
    run.telemetry_file(1, stem, segment).write_bytes(b"".join(lines))
    writer, before = RollupWriter(run.telemetry_file(1, stem).parent, stem), -1
    while (after := rolled_up(run, stem)) > before:
        before = after
        writer.advance(segment)


def rolled_up(run: RunDir, stem: str) -> int:
    path = run.rollup_file(1, stem)
    return path.stat().st_size if path.exists() else 0


def made_up_events(rank: int, num: int) -> Iterator[Event]:
    rng = random.Random(rank)
    for seq in range(num):
        step = seq * 9 // 10
        common = {
            "time_ns": 1_790_000_000_000_000_000 + seq * 10**8,
            "mono_ns": 1_774_219_738_944 + seq * 10**8,
            "node": f"rank-{rank}",
            "rank": rank,
            "seq": seq,
            "step": step,
        }
        if seq % 10 == 9:
            beat = {"phase": "training", "phase_age_ns": seq, "progress": seq}
            yield Heartbeat(**beat, **common)
        elif rank == 0 and seq % 10_000 == 5000:
            checkpoint = {"checkpoint": f"step-{step:08d}", "digest": "0" * 64}
            yield CheckpointPublished(size_bytes=10**9, **checkpoint, **common)
        else:
            yield StepDone(
                loss=rng.random(),
                lr=3e-4,
                grad_norm=rng.random(),
                num_tokens=4096,
                step_ns=43_000_000 + rng.randrange(10**6),
                **common,
            )


if __name__ == "__main__":
    sys.exit(main())
