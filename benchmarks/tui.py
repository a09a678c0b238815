"""The dashboard as its operator meets it: `opsdash attach` under a terminal.

Runs are made up or written while it watches; the terminal is 120 x 36, has true
colour and lives in this process. The peers are an empty Textual app at the start
and W&B LEET over the same series in the same minutes. On a machine that others
use, `--realtime` lets what is measured go first; only root may.

    python benchmarks/tui.py [--events 5000000] [--only NAME …] [--keep DIR]
"""

import argparse
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from agent.rundir.layout import RunDir
from benchmarks.attach import make_run
from benchmarks.attach_feed import made_up_events
from benchmarks.screen import terminal
from benchmarks.screen.leet import attach_leet, both_runs, leet
from benchmarks.screen.samples import (
    Cost,
    cost,
    event_delays,
    first_and_verdict,
    key_delays,
    live_cost,
    memory,
)
from benchmarks.screen.terminal import TimedTerminal, attach, environment
from benchmarks.table import Row, at_most, print_table

FIRST_S, VERDICT_S = 0.3, 1.0
KEY_MS, EVENT_MS = 50, 300
BYTES_PER_S, RSS_MB, READING_PERCENT = 5_000, 70, 2
CHUNKS, POINTS = 100_000, 1_000_000
HELLO = """
from textual.app import App
from textual.widgets import Label
class Hello(App):
    def compose(self):
        yield Label("1 overview")
Hello().run()
"""
_ROUNDS = 5
_LIVE_S = 30.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=5_000_000)
    parser.add_argument("--only", nargs="*", choices=[*PARTS], default=[*PARTS])
    parser.add_argument("--realtime", action="store_true", help="go before others")
    parser.add_argument("--keep", type=Path, help="make the long run here, or use it")
    options = parser.parse_args()
    terminal.is_realtime = options.realtime
    first = ", what is measured goes first" if options.realtime else ""
    print(f"load {os.getloadavg()[0]:.1f} before{first}")
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "home"
        home.mkdir()
        run = RunDir(options.keep or Path(folder) / "long")
        if "attach" in options.only and not run.identity.exists():
            make_run(run, options.events, 8, made_up_events)
        start_hello(home)  # compiles what both sides load
        rows = [
            row
            for name in options.only
            for row in PARTS[name](Path(folder), home, run.path)
        ]
    print(f"load {os.getloadavg()[0]:.1f} after")
    return print_table(rows)


def start_rows(_: Path, home: Path, run: Path) -> Iterator[Row]:
    """Attach to a long past; the least of some rounds."""
    first_and_verdict(run, home)
    found = [first_and_verdict(run, home) for _ in range(_ROUNDS)]
    hello_s = min(start_hello(home) for _ in range(_ROUNDS))
    first_s = min(one.first_s for one in found)
    verdict_s = min(one.verdict_s for one in found)
    cpu_s = min(one.cpu_s for one in found)
    yield Row(
        "start to first paint, long past",
        f"{first_s:.3f} s",
        f"empty Textual app: {hello_s:.3f} s",
        f"{hello_s / first_s:.2f}x",
        **at_most(first_s, FIRST_S, "s"),
    )
    claim = f"start to complete verdict (CPU {cpu_s:.2f} s)"
    yield Row(claim, f"{verdict_s:.3f} s", "", **at_most(verdict_s, VERDICT_S, "s"))


def start_hello(home: Path) -> float:
    """Return how long an empty Textual app takes to its first paint, seconds."""
    with TimedTerminal([sys.executable, "-c", HELLO], environment(home)) as hello:
        return hello.shown_s("1 overview") - hello.began_s


def key_rows(folder: Path, home: Path, _: Path) -> Iterator[Row]:
    """Press keys under load."""
    panes, letters = key_delays(folder, home, 80)
    for claim, delays in (("another pane", panes), ("a letter in a filter", letters)):
        yield _delays(f"key to paint at 5,000 lines/s: {claim}", delays, KEY_MS)


def event_rows(folder: Path, home: Path, _: Path) -> Iterator[Row]:
    """Watch steps appear."""
    delays = event_delays(folder, home, 40)
    yield _delays("event written to event on the screen", delays, EVENT_MS)


def live_rows(folder: Path, home: Path, _: Path) -> Iterator[Row]:
    """Watch a run of few ranks, and one of many."""
    few = live_cost(folder, home, ranks=4, seconds=_LIVE_S)
    yield Row(
        "bytes to the terminal, live overview, 1 step/s",
        f"{few.bytes_per_s / 1000:.2f} kB/s",
        "",
        **at_most(few.bytes_per_s, BYTES_PER_S, "B/s"),
    )
    many = live_cost(folder, home, ranks=64, seconds=_LIVE_S)
    claim = f"follow 64 files, threads that read (all of it {many.cpu_frac:.1%})"
    percent = 100 * many.reading_frac
    target = at_most(percent, READING_PERCENT, "% of a core")
    yield Row(claim, f"{percent:.1f} % of a core", "", **target)


def memory_rows(folder: Path, home: Path, _: Path) -> Iterator[Row]:
    """Show much."""
    rss = memory(folder, home, points=POINTS, chunks=CHUNKS) / 1e6
    claim = f"memory, {CHUNKS:,} chunk rows and {POINTS:,} points"
    yield Row(claim, f"{rss:.0f} MB", "", **at_most(rss, RSS_MB, "MB"))


def peer_rows(folder: Path, home: Path, _: Path) -> Iterator[Row]:
    """Watch the same six series with both, side by side."""
    if leet() is None:
        print("not measured, it is not installed: W&B LEET")
        return
    with (
        both_runs(folder, past=600) as (ours, theirs),
        attach(ours, home) as mine,
        attach_leet(theirs, home) as peer,
    ):
        mine.shown_s("seen at")
        mine.send("4")
        mine.shown_s("gradient norm")
        peer.shown_s("update_ratio")
        mine.pass_time(5)
        peer.pass_time(1)
        costs = beside(mine, peer, _LIVE_S)
    yield from _beside(*costs)


def beside(mine: TimedTerminal, peer: TimedTerminal, seconds: float) -> list[Cost]:
    """Return what both cost, in turns of a few seconds."""
    turns = [(cost(mine, seconds / 6), cost(peer, seconds / 6)) for _ in range(3)]
    return [
        Cost(*(statistics.mean(values) for values in zip(*side, strict=True)))
        for side in zip(*turns, strict=True)
    ]


def _beside(ours: Cost, theirs: Cost) -> Iterator[Row]:
    what = "six series at 10 rows/s"
    sides = [f"{100 * one.cpu_frac:.1f} % of a core" for one in (ours, theirs)]
    yield _than("CPU, " + what, sides, ours.cpu_frac, theirs.cpu_frac)
    sides = [f"{one.rss_bytes / 1e6:.0f} MB" for one in (ours, theirs)]
    sides[1] += f", {theirs.painting_bytes / 1e6:.0f} without its launcher"
    yield _than("memory, " + what, sides, ours.rss_bytes, theirs.rss_bytes)
    sides = [f"{one.bytes_per_s / 1000:.1f} kB/s" for one in (ours, theirs)]
    yield _than("bytes, " + what, sides, ours.bytes_per_s, theirs.bytes_per_s)


def _than(claim: str, sides: list[str], ours: float, theirs: float) -> Row:
    return Row(claim, sides[0], f"W&B LEET: {sides[1]}", f"{theirs / ours:.2f}x")


def _delays(claim: str, delays: list[float], limit_ms: float) -> Row:
    median_ms = 1000 * statistics.median(delays)
    p95_ms = 1000 * statistics.quantiles(delays, n=20)[-1]
    ours = f"p95 {p95_ms:.0f} ms, median {median_ms:.0f} ms"
    return Row(claim, ours, "", **at_most(p95_ms, limit_ms, "ms"))


PARTS = {
    "attach": start_rows,
    "keys": key_rows,
    "events": event_rows,
    "live": live_rows,
    "memory": memory_rows,
    "peer": peer_rows,
}


if __name__ == "__main__":
    sys.exit(main())
