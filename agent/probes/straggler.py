"""Name the rank that the others wait for, from what all ranks have written.

Rank 0 follows everybody's telemetry, because the agent issues no collective.
That costs parsing, so it is done at most for a fixed share of the time: with
many ranks verdicts come later, not training. Waits in step lines tell of slow
data and forward passes, samples of collectives also of slow backward passes.
"""

import time
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path

from agent.emitter import Emitter
from agent.rundir.collectives import CollectiveFold
from agent.rundir.events import (
    AnyEvent,
    CollectivesSampled,
    RunStarted,
    StepDone,
    StragglerNamed,
    Undecodable,
    decode_lines,
)
from agent.rundir.lateness import LatenessFold, Passage
from agent.rundir.layout import RunDir, rank_stem
from agent.rundir.stragglers import MIN_STEPS, StragglerFold
from agent.rundir.tail import READ_LIMIT_BYTES, Tail

_MAX_FRAC = 0.002
"""Of the time may be spent on reading."""
_MAX_READS = 8
"""Blocks of a file at one look."""
_FULL_BYTES = READ_LIMIT_BYTES // 2
"""A block that is smaller was all that there was."""
_MAX_OPEN_STEPS = 256
_MAX_GROUPS = 8
_WAITS = ""
"""Under which the verdict from waits is kept, beside those of groups."""


@dataclass
class _Step:
    """A step that some ranks have told."""

    ranks: set[int] = field(default_factory=set)
    lateness_ns: list[dict[int, int]] = field(default_factory=list)
    step_ns: int = 0


class _Follower:
    """One rank's telemetry, over all its segments."""

    _is_complete: bool
    """Whether the segment that is read has been followed by another."""

    def __init__(self, run: RunDir, attempt: int, rank: int) -> None:
        self._place = (run, attempt, rank_stem(rank))
        self._begin(1)

    def read(self) -> list[AnyEvent]:
        """Return what is new, at most so many blocks."""
        found: list[AnyEvent] = []
        for _ in range(_MAX_READS):
            data = self._tail.read()
            found += [e for e in decode_lines(data) if not isinstance(e, Undecodable)]
            if len(data) > _FULL_BYTES or (self._is_complete and data):
                continue
            if self._is_complete:
                self._begin(self._segment + 1)
            elif self._next.exists():
                # Its last lines may have come between the read and the question.
                self._is_complete = True
            else:
                break
        return found

    def _begin(self, segment: int) -> None:
        self._segment = segment
        self._tail = Tail(self._path(segment))
        self._next = self._path(segment + 1)
        self._is_complete = False

    def _path(self, segment: int) -> Path:
        run, attempt, stem = self._place
        return run.telemetry_file(attempt, stem, segment)


class StragglerWatch:
    """Asked at every beat, on rank 0."""

    def __init__(
        self, emitter: Emitter, run: RunDir, attempt: int, world_size: int
    ) -> None:
        """Watch an attempt's ranks; nothing is read yet."""
        self._emitter = emitter
        self._followers = {
            rank: _Follower(run, attempt, rank) for rank in range(world_size)
        }
        self._hosts: dict[int, str] = {}
        self._waits: LatenessFold | None = None
        self._starts: CollectiveFold | None = None
        self._steps: OrderedDict[int, _Step] = OrderedDict()
        self._folds: dict[str, StragglerFold] = {}
        self._told: tuple[int | None, bool] = (None, False)
        self._not_before_s = 0.0

    def look(self) -> None:
        """Read what is new, and tell a verdict that has changed.

        Raises:
            OSError: a rank's telemetry cannot be read; that of the others was.
        """
        if time.monotonic() < self._not_before_s:
            return
        began = time.thread_time()
        unreadable: OSError | None = None
        for rank, follower in self._followers.items():
            try:
                found = follower.read()
            except OSError as error:
                unreadable = error
                continue
            for event in found:
                self._observe(rank, event)
        if self._folds:
            self._tell()
        cost_s = time.thread_time() - began
        self._not_before_s = time.monotonic() + cost_s / _MAX_FRAC
        if unreadable is not None:
            raise unreadable  # told by whoever called, and the others were read

    def _observe(self, rank: int, event: AnyEvent) -> None:
        match event:
            case RunStarted():
                self._meet(rank, event)
            case StepDone() if event.step is not None and self._waits is not None:
                self._observe_step(rank, event.step, event)
            case CollectivesSampled() if self._starts is not None:
                for s in self._starts.observe(rank, event):
                    self._fold(event.group, s.step, [s.lateness_ns], s.step_ns)

    def _meet(self, rank: int, event: RunStarted) -> None:
        self._hosts[rank] = f"{event.host}/{event.boot_id}"
        if len(self._hosts) == len(self._followers):
            self._waits = LatenessFold(self._hosts)
            self._starts = CollectiveFold(self._hosts, self._waits.alignment)

    def _observe_step(self, rank: int, number: int, event: StepDone) -> None:
        assert self._waits is not None
        step = self._steps.setdefault(number, _Step())
        step.ranks.add(rank)
        step.step_ns = max(step.step_ns, event.step_ns or 0)
        for wait in event.waits:
            passage = Passage(wait.arrived_mono_ns, wait.wait_ns)
            found = self._waits.observe(rank, wait.name, wait.index, passage)
            if found is not None:
                step.lateness_ns.append(found.lateness_ns)
        if len(step.ranks) < len(self._followers):
            if len(self._steps) > _MAX_OPEN_STEPS:
                self._steps.popitem(last=False)
            return
        del self._steps[number]
        self._fold(_WAITS, number, step.lateness_ns, step.step_ns)

    def _fold(
        self, source: str, step: int, lateness_ns: list[dict[int, int]], step_ns: int
    ) -> None:
        if source in self._folds or len(self._folds) <= _MAX_GROUPS:
            fold = self._folds.setdefault(source, StragglerFold())
            fold.observe(step, lateness_ns, step_ns)

    def _tell(self) -> None:
        """Tell the worst verdict, if it is another one than before."""
        fold = self._worst()
        verdict = fold.verdict
        kind = (verdict.straggler, verdict.is_rotating)
        if kind == self._told:
            return
        self._told = kind
        self._emitter.emit(
            StragglerNamed,
            straggler=verdict.straggler,
            lost_frac=verdict.lost_frac,
            is_persistent=verdict.straggler is not None,
            since_step=verdict.since_step,
            is_rotating=verdict.is_rotating,
            run_frac=fold.lost_frac(verdict.straggler),
            lost_rank_ns=fold.lost_rank_ns(verdict.straggler),
        )

    def _worst(self) -> StragglerFold:
        """Return what waits say, or what collectives say if that is worse.

        Collectives are sampled rarely, so their verdict may be old; then it
        stands only as long as waits name nobody.
        """
        waits = self._folds.get(_WAITS, StragglerFold())
        newest = max(fold.newest_step for fold in self._folds.values())
        folds = [waits] + [
            fold
            for source, fold in self._folds.items()
            if source != _WAITS
            and (
                waits.verdict.straggler is None
                or fold.newest_step >= newest - MIN_STEPS
            )
        ]
        return max(folds, key=_badness)


def _badness(fold: StragglerFold) -> tuple[bool, bool, float]:
    verdict = fold.verdict
    return verdict.straggler is not None, verdict.is_rotating, verdict.lost_frac
