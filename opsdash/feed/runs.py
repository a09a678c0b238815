"""The runs below a directory, each with its verdict, read one after the other.

A thread looks at one run at a time and keeps the readers of the newest ones, so
that looking again costs a `stat` per file; a run with a long history is judged
by what was read of it so far, and says so. Of the older ones those that are over
are judged once; the others take turns, each read from its beginning again.
"""

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from agent.rundir.layout import RunDir
from opsdash.feed.reader import RunReader
from opsdash.projections.plausible import clip
from opsdash.projections.run import Run
from opsdash.projections.run_state import State, Verdict

_MAX_DEPTH = 4
_MAX_DIRECTORIES = 20_000
_MAX_RUNS = 1_000
_MAX_KEPT = 32
_SLICE_S = 0.25
"""Reading of one run before the next one gets its turn, seconds."""
_TURNS_S = 0.5
"""Of each pass, for the older runs that may still go on; one has its turn anyway."""
_PAUSE_S = 1.0
_OVER = (State.DEAD, State.FINISHED)
"""Nothing more comes of such a run, unless a new attempt is recorded."""


class RunSummary(NamedTuple):
    """One run, as the list of runs shows it."""

    path: Path
    kind: str | None
    """`ddp` or `federated`; None: not known."""
    verdict: Verdict | None
    """None: not looked at yet, or it cannot be."""
    started_ns: int
    """When its newest attempt was recorded, Unix ns."""
    trouble: str = ""
    """Why it cannot be judged, however it is read; empty: it can."""

    @property
    def is_over(self) -> bool:
        """Whether looking again would tell the same."""
        verdict = self.verdict
        return (
            verdict is not None
            and not verdict.is_provisional
            and verdict.state in _OVER
        )


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
                if not entry.name.startswith(".") and _is_directory(entry)
            ]


def _is_directory(entry: "os.DirEntry[str]") -> bool:
    """Ask the file system where its listing does not say; it may refuse to."""
    try:
        return entry.is_dir(follow_symlinks=False)
    except OSError:
        return False


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
        self._readings: dict[Path, _Reading] = {}
        self._found: dict[Path, RunSummary] = {}
        self._looked_s: dict[Path, float] = {}
        """When the older ones had their turn, by the monotonic clock."""
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
        """Look at the newest runs, and at some of the older ones that go on."""
        dated = sorted(
            ((started_ns(p), p) for p in runs_below(self.root)), reverse=True
        )[:_MAX_RUNS]
        for old in (self._found, self._looked_s, self._readings):
            for path in old.keys() - {path for _, path in dated}:
                del old[path]
        for began_ns, path in dated:
            if path not in self._found:
                self._found[path] = RunSummary(path, None, None, began_ns)
        self._publish()
        for began_ns, path in dated[:_MAX_KEPT]:
            if self._stopping.is_set():
                return
            self._look_at(path, began_ns)
        self._give_turns(dated[_MAX_KEPT:])

    def _give_turns(self, older: list[tuple[int, Path]]) -> None:
        """Look at those that waited longest; one that is begun is read to its end."""
        waiting = [
            (self._looked_s.get(path, 0.0), began_ns, path)
            for began_ns, path in older
            if not self._found[path].is_over or self._found[path].started_ns != began_ns
        ]
        for _, path in older:
            if path in self._readings and not self._readings[path].is_behind:
                del self._readings[path]
        # Whose reading is not done goes first, then those that nobody looked at.
        waiting.sort(key=lambda one: (one[2] not in self._readings, one[0], -one[1]))
        until_s = time.monotonic() + _TURNS_S
        for _, began_ns, path in waiting:
            if self._stopping.is_set():
                return
            self._look_at(path, began_ns)
            reading = self._readings.get(path)
            if reading is not None and reading.is_behind:
                return
            self._readings.pop(path, None)
            self._looked_s[path] = time.monotonic()
            if self._looked_s[path] > until_s:
                return

    def _look_at(self, path: Path, began_ns: int) -> None:
        try:
            reading = self._readings.get(path) or _Reading(path)
            self._readings[path] = reading
            reading.go_on()
            self._found[path] = reading.summary(path, began_ns)
        except Exception as error:  # noqa: BLE001 - one strange run must not end the list of the others
            self._readings.pop(path, None)
            trouble = f"{type(error).__name__}: {error}".removesuffix(": ")
            self._found[path] = RunSummary(path, None, None, began_ns, clip(trouble))
        self._publish()

    def _publish(self) -> None:
        rows = self._found.values()
        self.rows = tuple(sorted(rows, key=lambda row: -row.started_ns))
