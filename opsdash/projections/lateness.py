"""Who comes late to the barriers of each step, and what the others lose by it.

How arrivals are told without a shared clock, and when a rank is named, are the
agent's own rules (`agent.rundir.lateness`, `agent.rundir.stragglers`), so that
a screen and the run's events say the same. What the agent named from samples of
collectives, which waits cannot show, is taken over from its event.
"""

from collections import OrderedDict, deque
from dataclasses import dataclass, field
from typing import NamedTuple

from agent.rundir.events import RunStarted, StepDone, StragglerNamed, Wait
from agent.rundir.lateness import BarrierLateness, LatenessFold, Passage
from agent.rundir.stragglers import WINDOW_STEPS, StragglerFold, loss_of
from opsdash.projections.batch import Batch, Origin
from opsdash.projections.heat import HeatMap
from opsdash.projections.plausible import (
    MAX_NS,
    MAX_RANKS,
    clip,
    finite,
    nanoseconds,
    whole,
)

COSTLY_FRAC = 0.10
"""A straggler that costs more degrades the run,"""
CHEAP_FRAC = 0.05
"""until it costs less than this: a run at the threshold must not flicker."""
_MAX_OPEN_STEPS = 2_048
_MAX_NAMES = 64
_MAX_ATTEMPTS = 4
"""Whose processes' clocks are remembered while attempts are read in order."""


class Straggler(NamedTuple):
    """The rank that costs the others most, over the last steps."""

    rank: int
    lost_frac: float
    """Share of the last steps' time that the others waited for this rank."""
    total_lost_frac: float
    """Share that was waited for anybody."""
    is_persistent: bool
    """It is this rank again and again: it is named."""
    is_rotating: bool
    """Much is lost, to ever another rank. Neither: nothing to speak of."""
    since_step: int
    """First step that the verdict is about."""
    is_costly: bool
    """It costs so much that the run is degraded."""


class Blame(NamedTuple):
    """What one rank cost, over the newest attempt."""

    rank: int
    lost_ns: int
    """What the step would have gained without it: the others' median wait."""
    lost_rank_ns: int
    """The others' waits for it, summed."""
    lost_frac: float | None
    """Of the time of all steps."""
    window_frac: float | None
    """Of the last steps."""
    num_last: int
    """How often it was the last to arrive."""
    worst_ns: int
    """Its greatest lateness."""
    mean_ns: float
    """Its mean lateness."""


class BarrierStats(NamedTuple):
    """One barrier's name, over the newest attempt."""

    name: str
    num_waits: int
    mean_wait_ns: float
    worst_lateness_ns: int


@dataclass
class _Step:
    """A step that some ranks have told."""

    ranks: set[int] = field(default_factory=set)
    lateness_ns: list[dict[int, int]] = field(default_factory=list)
    step_ns: int = 0


@dataclass
class _Lateness:
    """What is summed of one rank."""

    num: int = 0
    total_ns: int = 0
    worst_ns: int = 0


class _Cost(NamedTuple):
    """One step of the window."""

    step: int
    step_ns: int
    lost_ns: dict[int, int]


class Lateness:
    """Folds the waits of `step_done`."""

    def __init__(self) -> None:
        self.heat = HeatMap()
        self.last: BarrierLateness | None = None
        """The newest barrier that every rank has told."""
        self._attempt = 0
        self._world_size: int | None = None
        self._clocks: dict[int, dict[int, str]] = {}
        self._begin()

    def _begin(self) -> None:
        """Start an attempt with nothing."""
        self._fold: LatenessFold | None = None
        self._stragglers = StragglerFold()
        self._steps: OrderedDict[int, _Step] = OrderedDict()
        self._ranks: dict[int, _Lateness] = {}
        self._names: dict[str, list[int]] = {}
        self._window: deque[_Cost] = deque(maxlen=WINDOW_STEPS)
        self._named: StragglerNamed | None = None
        self._is_costly = False
        self._has_step = False

    def on_batch(self, batch: Batch) -> None:
        """Take in whose clock each rank reads, before any step is folded."""
        for lines in batch.lines:
            for event in lines.events[:2]:
                if isinstance(event, RunStarted):
                    self._meet(lines.origin, event)

    def on_step(self, origin: Origin, event: StepDone) -> None:
        """Take in one rank's waits of one step."""
        number, rank = whole(event.step), origin.rank
        if rank is None or number is None or not self._enter(origin.attempt):
            return
        self._go_back_to(number)
        fold = self._fold or self._make_fold()
        if fold is None or rank not in self._clocks[self._attempt]:
            return
        step = self._steps.setdefault(number, _Step())
        step.ranks.add(rank)
        step.step_ns = max(step.step_ns, nanoseconds(event.step_ns) or 0)
        for wait in event.waits:
            self._observe(fold, number, rank, wait)
        self._finish_steps(number)

    def on_thinned_step(self, origin: Origin, event: StepDone) -> None:
        """Take in a step of which other ranks' part is not there: only that it was."""
        number = whole(event.step)
        if number is not None and self._enter(origin.attempt):
            self._go_back_to(number)

    def on_named(self, origin: Origin, event: StragglerNamed) -> None:
        """Take in the verdict of the run's own agent."""
        if self._enter(origin.attempt):
            self._named = event

    def straggler(self) -> Straggler | None:
        """Return who costs most over the last steps; None: nobody was late."""
        shares = self._shares()
        told = self._stragglers.verdict
        from_agent = self._from_agent()
        if told.straggler is None and from_agent is not None:
            return from_agent
        rank = told.straggler
        if rank is None:
            rank = max(shares, key=shares.__getitem__, default=None)
        if rank is None:
            return None
        return Straggler(
            rank=rank,
            lost_frac=shares.get(rank, 0.0),
            total_lost_frac=sum(shares.values()),
            is_persistent=told.straggler is not None,
            is_rotating=told.is_rotating,
            since_step=told.since_step,
            is_costly=self._is_costly,
        )

    def blame(self) -> list[Blame]:
        """Return what each rank cost, the dearest first."""
        shares, accounts = self._shares(), self._stragglers.accounts
        rows = []
        for rank, late in self._ranks.items():
            account = accounts.get(rank)
            rows.append(
                Blame(
                    rank=rank,
                    lost_ns=account.wall_ns if account else 0,
                    lost_rank_ns=account.rank_ns if account else 0,
                    lost_frac=(
                        self._stragglers.lost_frac(rank)
                        if self._stragglers.total_ns
                        else None
                    ),
                    window_frac=shares.get(rank, 0.0) if self._window else None,
                    num_last=account.num_last if account else 0,
                    worst_ns=late.worst_ns,
                    mean_ns=late.total_ns / late.num if late.num else 0.0,
                )
            )
        return sorted(rows, key=lambda row: (-row.lost_ns, row.rank))

    def barriers(self) -> list[BarrierStats]:
        """Return what is waited for at each barrier of the steps, by name."""
        return [
            BarrierStats(name, num, total / num, worst)
            for name, (num, total, worst) in sorted(self._names.items())
            if num
        ]

    def _meet(self, origin: Origin, event: RunStarted) -> None:
        if origin.rank is None or origin.attempt < self._attempt:
            return
        clocks = self._clocks.setdefault(origin.attempt, {})
        clocks[origin.rank] = clip(f"{event.host}/{event.boot_id}", 160)
        while len(self._clocks) > _MAX_ATTEMPTS:
            del self._clocks[min(self._clocks)]
        if origin.attempt == max(self._clocks):
            self._world_size = whole(event.world_size, MAX_RANKS)

    def _enter(self, attempt: int) -> bool:
        """Whether a line belongs to the newest attempt; a newer one begins anew."""
        if attempt > self._attempt:
            self._attempt = attempt
            self._begin()
        return attempt == self._attempt

    def _go_back_to(self, number: int) -> None:
        """Let an attempt's first step supersede what lies above it."""
        if not self._has_step:
            self._has_step = True
            self.heat.forget_above(number - 1)

    def _make_fold(self) -> LatenessFold | None:
        """Return the fold of this attempt, once every rank's clock is known."""
        clocks = self._clocks.get(self._attempt, {})
        if len(clocks) < max(2, self._world_size or 0):
            return None
        self._fold = LatenessFold(clocks)
        return self._fold

    def _observe(self, fold: LatenessFold, number: int, rank: int, wait: Wait) -> None:
        index, wait_ns = whole(wait.index), nanoseconds(wait.wait_ns)
        if index is None or wait_ns is None or not 0 <= wait.arrived_mono_ns <= MAX_NS:
            return
        self._sum_name(clip(wait.name, 80), wait_ns)
        passage = Passage(wait.arrived_mono_ns, wait_ns)
        found = fold.observe(rank, clip(wait.name, 80), index, passage)
        if found is None:
            return
        self.last = found
        self.heat.put(number, found.lateness_ns)
        self._steps[number].lateness_ns.append(found.lateness_ns)
        self._sum_ranks(found)

    def _finish_steps(self, number: int) -> None:
        step, fold = self._steps[number], self._fold
        if fold is not None and len(step.ranks) >= len(self._clocks[self._attempt]):
            del self._steps[number]
            self._stragglers.observe(number, step.lateness_ns, step.step_ns)
            self._note_cost(number, step)
        elif len(self._steps) > _MAX_OPEN_STEPS:
            self._steps.popitem(last=False)

    def _note_cost(self, number: int, step: _Step) -> None:
        if step.step_ns <= 0:
            return
        lost_ns: dict[int, int] = {}
        for lateness_ns in step.lateness_ns:
            loss = loss_of(lateness_ns)
            if loss is not None:
                lost_ns[loss.rank] = lost_ns.get(loss.rank, 0) + loss.wall_ns
        self._window.append(_Cost(number, step.step_ns, lost_ns))
        named = self._stragglers.verdict.straggler
        share = 0.0 if named is None else self._shares().get(named, 0.0)
        self._is_costly = share > (CHEAP_FRAC if self._is_costly else COSTLY_FRAC)

    def _shares(self) -> dict[int, float]:
        """Return the share of the last steps' time that was lost to each rank."""
        total_ns = sum(cost.step_ns for cost in self._window)
        lost: dict[int, int] = {}
        for cost in self._window:
            for rank, lost_ns in cost.lost_ns.items():
                lost[rank] = lost.get(rank, 0) + lost_ns
        return {rank: ns / total_ns for rank, ns in lost.items() if ns > 0}

    def _from_agent(self) -> Straggler | None:
        named = self._named
        if named is None or named.straggler is None or not named.is_persistent:
            return None
        lost_frac = finite(named.lost_frac) or 0.0
        return Straggler(
            rank=named.straggler,
            lost_frac=lost_frac,
            total_lost_frac=lost_frac,
            is_persistent=True,
            is_rotating=False,
            since_step=whole(named.since_step) or 0,
            is_costly=lost_frac > COSTLY_FRAC,
        )

    def _sum_ranks(self, found: BarrierLateness) -> None:
        for rank, late_ns in found.lateness_ns.items():
            late = self._ranks.setdefault(rank, _Lateness())
            late.num += 1
            late.total_ns += late_ns
            late.worst_ns = max(late.worst_ns, late_ns)
        worst_ns = max(found.lateness_ns.values())
        if sums := self._names.get(found.name):
            sums[2] = max(sums[2], worst_ns)

    def _sum_name(self, name: str, wait_ns: int) -> None:
        if name not in self._names and len(self._names) >= _MAX_NAMES:
            return
        sums = self._names.setdefault(name, [0, 0, 0])
        sums[0] += 1
        sums[1] += wait_ns
