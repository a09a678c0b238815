"""The runs below a directory, each with its verdict, read one after the other.

A thread looks at one run at a time and keeps the readers of the newest ones, so
that looking again costs a `stat` per file; a run with a long history is judged
by what was read of it so far, and says so.
"""

import contextlib
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from agent.rundir.layout import RunDir
from opsdash.feed.reader import RunReader
from opsdash.projections.run import Run
from opsdash.projections.run_state import Verdict

_MAX_DEPTH = 4
_MAX_DIRECTORIES = 20_000
_MAX_RUNS = 1_000
_MAX_KEPT = 32
_SLICE_S = 0.25
"""Reading of one run before the next one gets its turn, seconds."""
_PAUSE_S = 1.0


class RunSummary(NamedTuple):
    """One run, as the list of runs shows it."""

    path: Path
    kind: str | None
    """`ddp` or `federated`; None: not known."""
    verdict: Verdict | None
    """None: not looked at yet."""
    started_ns: int
    """When its newest attempt was recorded, Unix ns."""


def runs_below(root: Path) -> Iterator[Path]:
    """Yield run directories, not looking into them, nor into hidden directories."""
    pending, num_seen = [(root, 0)], 0
    while pending and num_seen < _MAX_DIRECTORIES:
        directory, depth = pending.pop()
        num_seen += 1
        try:
            with os.scandir(directory) as entries:
                found = list(entries)
        except OSError:
            continue
        if any(entry.name == "run.json" for entry in found):
            yield directory
        elif depth < _MAX_DEPTH:
            pending += [
                (Path(entry.path), depth + 1)
                for entry in found
                if not entry.name.startswith(".")
                and entry.is_dir(follow_symlinks=False)
            ]


def started_ns(path: Path) -> int:
    """Return when the newest attempt was recorded, by its folder's time."""
    run = RunDir(path)
    times = [0]
    for place in (run.identity, run.attempts):
        with contextlib.suppress(OSError):
            times.append(place.stat().st_mtime_ns)
    return max(times)


class _Reading:
    """One run that is being looked at."""

    def __init__(self, path: Path) -> None:
        self.reader = RunReader(RunDir(path))
        self.folded = Run()
        self.is_behind = True
        """Whether there is more to read."""

    def go_on(self) -> None:
        """Read for a while, or to the end."""
        until_s = time.monotonic() + _SLICE_S
        while True:
            batch = self.reader.read()
            self.folded.fold(batch)
            self.is_behind = batch.backlog_bytes > 0
            if not self.is_behind or time.monotonic() > until_s:
                return

    def summary(self, path: Path, began_ns: int) -> RunSummary:
        verdict = self.folded.verdict(time.monotonic_ns(), time.time_ns())
        return RunSummary(path, self.folded.kind, verdict, began_ns)


class RunsFeed:
    """Looks at the runs below a directory until it is stopped."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.rows: tuple[RunSummary, ...] = ()
        """Newest first; replaced whole, so that a screen can read it any time."""
        self._readings: OrderedDict[Path, _Reading] = OrderedDict()
        self._found: dict[Path, RunSummary] = {}
        self._stopping = threading.Event()
        self._thread = threading.Thread(
            target=self._run, name="opsdash-runs", daemon=True
        )

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self) -> None:
        """End soon; a read that hangs on a dead mount is left behind."""
        self._stopping.set()

    def _run(self) -> None:
        while not self._stopping.is_set():
            self.look()
            if not any(reading.is_behind for reading in self._readings.values()):
                self._stopping.wait(_PAUSE_S)

    def look(self) -> None:
        """Look at every run once; the newest first."""
        dated = sorted(
            ((started_ns(p), p) for p in runs_below(self.root)), reverse=True
        )
        there = {path for _, path in dated[:_MAX_RUNS]}
        self._found = {p: row for p, row in self._found.items() if p in there}
        for began_ns, path in dated[:_MAX_RUNS]:
            self._found.setdefault(path, RunSummary(path, None, None, began_ns))
        self._publish()
        for number, (began_ns, path) in enumerate(dated[:_MAX_RUNS]):
            if self._stopping.is_set():
                return
            known = self._found[path]
            is_settled = known.verdict is not None and not known.verdict.is_provisional
            if number >= _MAX_KEPT and is_settled:
                continue
            self._found[path] = self._look_at(path, began_ns)
            self._publish()

    def _look_at(self, path: Path, began_ns: int) -> RunSummary:
        reading = self._readings.pop(path, None) or _Reading(path)
        self._readings[path] = reading
        if len(self._readings) > _MAX_KEPT:
            self._readings.popitem(last=False)
        try:
            reading.go_on()
            return reading.summary(path, began_ns)
        except Exception:  # noqa: BLE001 - one strange run must not end the list of the others
            self._readings.pop(path, None)
            return RunSummary(path, None, None, began_ns)

    def _publish(self) -> None:
        rows = self._found.values()
        self.rows = tuple(sorted(rows, key=lambda row: -row.started_ns))
