"""The arrival board: who waits at which barrier, who is missing, and since when.

A projection of `barrier_arrived`, `barrier_released` and of heartbeats, which
tell the waits that travel in a step's line while they last. Beats tell the
innermost wait alone: a barrier around it is waited at until its release. Only
the newest attempt can wait; a new one clears the board.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from agent.rundir.events import (
    BarrierArrived,
    BarrierReleased,
    Heartbeat,
    RunEnded,
    StepDone,
)
from opsdash.projections.batch import Batch, Origin
from opsdash.projections.plausible import MAX_NODES, clip, nanoseconds, whole

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
    is_released: bool
    """Whether its end is told by itself, and not only by the beats."""


class Barriers:
    """Folds arrivals and releases of the newest attempt."""

    def __init__(self) -> None:
        self.last_failed: FailedWait | None = None
        self._attempt = 0
        self._waits: dict[str, list[_Wait]] = {}
        """By process, each inside those before it."""
        self._ranks: dict[str, int | None] = {}
        self._passed: dict[str, dict[str, int]] = {}
        self._ended: set[str] = set()

    def on_batch(self, batch: Batch) -> None:
        """Take in that a newer attempt exists: nobody of an older one waits."""
        self._begin(batch.directory.newest_attempt)

    def on_arrived(self, origin: Origin, event: BarrierArrived) -> None:
        """Take in that a process is about to wait."""
        index = whole(event.index)
        if index is not None and self._enter(origin):
            limit_ns = nanoseconds(event.limit_ns)
            name = clip(event.name, 80)
            wait = _Wait(name, index, event.mono_ns, limit_ns, is_released=True)
            self._wait(origin.stem, wait)

    def on_released(self, origin: Origin, event: BarrierReleased) -> None:
        """Take in that a process goes on."""
        index = whole(event.index)
        if index is None or not self._enter(origin):
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
        """Take in where the main thread waits now, or that it does not."""
        if not self._enter(origin):
            return
        index = whole(event.waiting_index)
        if event.waiting_at is None or index is None:
            self._waits.pop(origin.stem, None)
            return
        name, waits = clip(event.waiting_at, 80), self._waits.get(origin.stem, [])
        for place, known in enumerate(waits):
            if (known.name, known.index) == (name, index):
                del waits[place + 1 :]
                return
        since_ns = event.mono_ns - (nanoseconds(event.waiting_age_ns) or 0)
        wait = _Wait(name, index, since_ns, None, is_released=False)
        self._wait(origin.stem, wait)

    def on_step(self, origin: Origin, event: StepDone) -> None:
        """Take in the waits of a step: they are over."""
        if self._enter(origin):
            for wait in event.waits:
                index = whole(wait.index)
                if index is not None:
                    self._pass(origin.stem, clip(wait.name, 80), index)

    def on_ended(self, origin: Origin, event: RunEnded) -> None:  # noqa: ARG002 - one signature for all folds
        """Take in that a process is gone: it is expected nowhere."""
        if self._enter(origin):
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
                Waiting(stem, self._ranks.get(stem), waited_ns)
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

    def _enter(self, origin: Origin) -> bool:
        """Whether a line belongs to the newest attempt; a newer one clears all."""
        self._begin(origin.attempt)
        if origin.attempt < self._attempt:
            return False
        if origin.stem not in self._ranks:
            if len(self._ranks) >= MAX_NODES:
                return False
            self._ranks[origin.stem] = origin.rank
        return True

    def _begin(self, attempt: int) -> None:
        if attempt > self._attempt:
            self._attempt = attempt
            for state in (self._waits, self._ranks, self._passed, self._ended):
                state.clear()

    def _all_waits(self) -> Iterator[tuple[str, _Wait]]:
        for stem, waits in self._waits.items():
            for wait in waits:
                yield stem, wait

    def _wait(self, stem: str, wait: _Wait) -> None:
        """Note a wait inside those that have not been released yet."""
        around = [one for one in self._waits.get(stem, []) if one.is_released]
        self._waits[stem] = [*around[-_MAX_DEPTH:], wait]

    def _pass(self, stem: str, name: str, index: int) -> None:
        waits = self._waits.get(stem, [])
        waits[:] = [one for one in waits if one.name != name or one.index > index]
        passed = self._passed.setdefault(stem, {})
        if name in passed or len(passed) < _MAX_NAMES:
            passed[name] = max(index, passed.get(name, -1))

    def _missing(
        self, name: str, index: int, waiting: list[Waiting], world_size: int | None
    ) -> tuple[int, ...]:
        there = {wait.rank for wait in waiting}
        stems = {rank: stem for stem, rank in self._ranks.items() if rank is not None}
        ranks = range(world_size) if world_size else sorted(stems)
        return tuple(
            rank
            for rank in ranks
            if rank not in there
            and stems.get(rank) not in self._ended
            and self._passed.get(stems.get(rank, ""), {}).get(name, -1) < index
        )
