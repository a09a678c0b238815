"""The arrival board: who waits at which barrier, who is missing, and since when.

A projection of `barrier_arrived`, `barrier_released` and of heartbeats, which
tell all waits while they last: what a beat leaves out is over, whether its end
was told or that line was lost. Beats of older writers tell the innermost alone:
a barrier around it is waited at until its release, or until a step is complete.
Only the newest attempt can wait; a new one clears the board.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from agent.rundir.events import (
    BarrierArrived,
    BarrierReleased,
    Heartbeat,
    LastingWait,
    RunEnded,
    RunStarted,
    StepDone,
)
from opsdash.projections.batch import Batch, Origin
from opsdash.projections.newest import NewestAttempt
from opsdash.projections.plausible import clip, nanoseconds, whole

_MAX_NAMES = 128
"""Barriers of one process whose last index is kept."""

_MAX_DEPTH = 16
"""Waits inside each other that are kept of one process."""

AgeOf = Callable[[str, int], int]
"""Age in ns of a process's (stem) monotonic time, on the reader's clock."""


class Waiting(NamedTuple):
    """One process that has arrived."""

    stem: str
    rank: int | None
    waited_ns: int


@dataclass(frozen=True, slots=True)
class BoardRow:
    """One barrier at which somebody waits now."""

    name: str
    index: int
    """How often this barrier was arrived at before, by the same rank."""
    arrived: tuple[Waiting, ...]
    """First arrival first."""
    missing: tuple[int, ...]
    """Ranks that have not arrived, of those that are expected."""
    num_expected: int | None
    """None: nobody said how many ranks there are."""
    limit_ns: int | None

    @property
    def waited_ns(self) -> int:
        """How long the first to arrive has waited."""
        return self.arrived[0].waited_ns if self.arrived else 0

    @property
    def is_hung(self) -> bool:
        """Whether the barrier passed its own limit."""
        return self.limit_ns is not None and self.waited_ns > self.limit_ns


@dataclass(frozen=True, slots=True)
class FailedWait:
    """A barrier that released a rank without everybody."""

    attempt: int
    name: str
    index: int
    rank: int | None
    error: str


@dataclass
class _Wait:
    name: str
    index: int
    since_mono_ns: int
    limit_ns: int | None
    is_seen: bool
    """Whether beats tell it, and so its end; else only its arrival was told."""

    @property
    def place(self) -> tuple[str, int]:
        return self.name, self.index


class Barriers:
    """Folds arrivals and releases of the newest attempt."""

    def __init__(self) -> None:
        self.last_failed: FailedWait | None = None
        self._waits: dict[str, list[_Wait]] = {}
        """By process, each inside those before it."""
        self._passed: dict[str, dict[str, int]] = {}
        self._ended: set[str] = set()
        self._newest = NewestAttempt(self._waits, self._passed, self._ended)

    def on_batch(self, batch: Batch) -> None:
        """Take in that a newer attempt exists: nobody of an older one waits."""
        self._newest.begin(batch.directory.newest_attempt)

    def on_started(self, origin: Origin, event: RunStarted) -> None:
        """Take in that a process began, maybe anew: it has been nowhere yet."""
        if event.segment == 1 and self._newest.admits(origin):
            self._waits.pop(origin.stem, None)
            self._passed.pop(origin.stem, None)
            self._ended.discard(origin.stem)

    def on_arrived(self, origin: Origin, event: BarrierArrived) -> None:
        """Take in that a process is about to wait."""
        index = whole(event.index)
        if index is not None and self._newest.admits(origin):
            limit_ns = nanoseconds(event.limit_ns)
            name = clip(event.name, 80)
            wait = _Wait(name, index, event.mono_ns, limit_ns, is_seen=False)
            # Who comes to a barrier again has left it before.
            before = self._left(origin.stem, name, index)
            self._waits[origin.stem] = [*before, wait][-_MAX_DEPTH:]

    def on_released(self, origin: Origin, event: BarrierReleased) -> None:
        """Take in that a process goes on."""
        index = whole(event.index)
        if index is None or not self._newest.admits(origin):
            return
        self._pass(origin.stem, clip(event.name, 80), index)
        if event.error:
            self.last_failed = FailedWait(
                origin.attempt,
                clip(event.name, 80),
                index,
                origin.rank,
                clip(event.error),
            )

    def on_heartbeat(self, origin: Origin, event: Heartbeat) -> None:
        """Take in where the process waits now, or that it does not."""
        if not self._newest.admits(origin):
            return
        told = self._told(origin.stem, event)
        known = {one.place: one for one in self._waits.get(origin.stem, [])}
        waits = [known.get(place, one) for place, one in told.items()]
        around: list[_Wait] = []
        if event.waiting_at is not None and not event.waits:  # an older writer
            around = [
                one
                for place, one in known.items()
                if place not in told and not one.is_seen
            ]
        else:
            for one in waits:
                one.is_seen = True
        self._waits[origin.stem] = [*around, *waits]

    def on_step(self, origin: Origin, event: StepDone) -> None:
        """Take in the waits of a step: they are over.

        So is what no beat tells, because a step comes after it.
        """
        if not self._newest.admits(origin):
            return
        for wait in event.waits:
            index = whole(wait.index)
            if index is not None:
                self._pass(origin.stem, clip(wait.name, 80), index)
        waits = self._waits.get(origin.stem)
        if waits:
            waits[:] = [one for one in waits if one.is_seen]

    def on_ended(self, origin: Origin, event: RunEnded) -> None:  # noqa: ARG002 - one signature for all folds
        """Take in that a process is gone: it is expected nowhere."""
        if self._newest.admits(origin):
            self._waits.pop(origin.stem, None)
            self._ended.add(origin.stem)

    def board(self, age_of: AgeOf, world_size: int | None) -> list[BoardRow]:
        """Return the barriers at which somebody waits, longest wait first."""
        groups: dict[tuple[str, int], list[Waiting]] = {}
        limits: dict[tuple[str, int], int] = {}
        for stem, wait in self._all_waits():
            place = (wait.name, wait.index)
            waited_ns = age_of(stem, wait.since_mono_ns)
            groups.setdefault(place, []).append(
                Waiting(stem, self._newest.ranks.get(stem), waited_ns)
            )
            if wait.limit_ns is not None:
                limits[place] = min(wait.limit_ns, limits.get(place, wait.limit_ns))
        rows = [
            BoardRow(
                name=name,
                index=index,
                arrived=tuple(sorted(waiting, key=lambda w: -w.waited_ns)),
                missing=self._missing(name, index, waiting, world_size),
                num_expected=world_size,
                limit_ns=limits.get((name, index)),
            )
            for (name, index), waiting in groups.items()
        ]
        return sorted(rows, key=lambda row: (-row.waited_ns, row.name))

    def _all_waits(self) -> Iterator[tuple[str, _Wait]]:
        for stem, waits in self._waits.items():
            for wait in waits:
                yield stem, wait

    def _told(self, stem: str, event: Heartbeat) -> dict[tuple[str, int], _Wait]:
        """Return the waits in a beat, but for those that another line ended."""
        waits = event.waits[:_MAX_DEPTH]
        if not waits and event.waiting_at is not None:
            index, age_ns = event.waiting_index, event.waiting_age_ns
            if index is not None:
                waits = (LastingWait(event.waiting_at, index, age_ns or 0),)
        passed = self._passed.get(stem, {})
        told = {}
        for one in waits:
            name, index = clip(one.name, 80), whole(one.index)
            # Who left it meanwhile may have told so first, by a line.
            if index is not None and index > passed.get(name, -1):
                since_ns = event.mono_ns - (nanoseconds(one.age_ns) or 0)
                limit_ns = nanoseconds(one.limit_ns)
                told[name, index] = _Wait(name, index, since_ns, limit_ns, is_seen=True)
        return told

    def _left(self, stem: str, name: str, index: int) -> list[_Wait]:
        """Return where a process still waits once it has left a barrier so often."""
        waits = self._waits.get(stem, [])
        return [one for one in waits if one.name != name or one.index > index]

    def _pass(self, stem: str, name: str, index: int) -> None:
        if self._waits.get(stem):
            self._waits[stem] = self._left(stem, name, index)
        passed = self._passed.setdefault(stem, {})
        before = passed.get(name)
        if before is None and len(passed) >= _MAX_NAMES:
            return
        if before is None or index > before:
            passed[name] = index

    def _missing(
        self, name: str, index: int, waiting: list[Waiting], world_size: int | None
    ) -> tuple[int, ...]:
        there = {wait.rank for wait in waiting}
        stems = {
            rank: stem for stem, rank in self._newest.ranks.items() if rank is not None
        }
        ranks = range(world_size) if world_size else sorted(stems)
        return tuple(
            rank
            for rank in ranks
            if rank not in there
            and stems.get(rank) not in self._ended
            and self._passed.get(stems.get(rank, ""), {}).get(name, -1) < index
        )
