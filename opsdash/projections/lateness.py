"""Who comes late to the barriers of each step, and what the others lose by it.

A barrier's loss is what the others waited, on average, for the last to arrive,
and is put to that rank's account. A verdict looks at the last steps, so it
changes when the culprit does.
"""

from collections import OrderedDict
from typing import NamedTuple

from agent.rundir.events import RunStarted, StepDone
from opsdash.projections.arrivals import Arrivals, Settled
from opsdash.projections.batch import Batch, Origin
from opsdash.projections.heat import HeatMap
from opsdash.projections.plausible import nanoseconds, whole

WINDOW_STEPS = 20
"""A verdict looks at so many steps, so a straggler is named within them."""
_MAX_NAMES = 64
_MAX_SPANS = 8_192
"""Steps whose length is kept until their barriers are settled."""
_PERSISTENT_FRAC = 0.7
"""Last in so many of the window's steps: it is always the same rank."""
_NOISE_NS = 500_000
"""Ranks are released within about a millisecond: less is nobody's fault."""
_NOISE_FRAC = 0.01
_MIN_STEPS = 5
_JUDGE_EVERY = 5
"""Barriers between two looks at who is to blame: it costs as much as ten folds."""


class Straggler(NamedTuple):
    """The rank that costs the others most, over the last steps."""

    rank: int
    lost_frac: float
    """Share of the window's time that the others waited for this rank."""
    total_lost_frac: float
    """Share that was waited for anybody."""
    is_persistent: bool
    """False: the last to arrive changes from step to step."""
    since_step: int
    """First step of the streak that the rank is in."""
    num_steps: int
    """Steps that this is told from."""


class Blame(NamedTuple):
    """What one rank cost, over the newest attempt."""

    rank: int
    lost_ns: int
    """What the others waited for it, on average over them."""
    lost_rank_ns: int
    """The same, summed over the others."""
    lost_frac: float | None
    """Of the time of all steps."""
    window_frac: float | None
    """The same over the last steps."""
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


class _Account:
    """What is summed of one rank."""

    __slots__ = (
        "lateness_ns",
        "lost_ns",
        "lost_rank_ns",
        "num",
        "num_last",
        "worst_ns",
    )

    def __init__(self) -> None:
        self.num = self.num_last = 0
        self.lost_ns = self.lost_rank_ns = self.lateness_ns = self.worst_ns = 0


class _StepCost:
    """What one step's barriers cost, by the rank that was waited for."""

    __slots__ = ("lost_ns", "span_ns")

    def __init__(self) -> None:
        self.span_ns = 0
        self.lost_ns: dict[int, int] = {}


class Lateness:
    """Folds the waits of `step_done`."""

    def __init__(self) -> None:
        self.heat = HeatMap()
        self._attempt = 0
        self._arrivals = Arrivals()
        self._accounts: dict[int, _Account] = {}
        self._names: dict[str, list[int]] = {}
        self._spans: OrderedDict[int, int] = OrderedDict()
        self._window: OrderedDict[int, _StepCost] = OrderedDict()
        self._span_ns = 0
        self._streak: tuple[int, bool, int] | None = None
        self._num_settled = 0
        self._is_begun = False

    def on_batch(self, batch: Batch) -> None:
        """Take in how many ranks there are."""
        for attempt in batch.directory.attempts[-1:]:
            if attempt.attempt == self._attempt:
                self._arrivals.expect(attempt.world_size)

    def on_started(self, origin: Origin, event: RunStarted) -> None:
        """Take in whose monotonic clock a rank reads."""
        if origin.rank is not None and self._enter(origin):
            self._arrivals.set_clock(origin.rank, f"{event.host}/{event.boot_id}")
            self._arrivals.expect(event.world_size)

    def on_step(self, origin: Origin, event: StepDone) -> None:
        """Take in one rank's waits of one step."""
        step = whole(event.step)
        if origin.rank is None or step is None or not self._enter(origin):
            return
        if not self._is_begun:
            self._is_begun = True
            self.heat.forget_above(step - 1)
        self._note_span(step, nanoseconds(event.step_ns) or 0)
        for wait in event.waits:
            for settled in self._arrivals.add(step, origin.rank, wait):
                self._settle(settled)

    def straggler(self) -> Straggler | None:
        """Return who costs most over the last steps; None: nobody measurable."""
        return self._judge()

    def blame(self) -> list[Blame]:
        """Return what each rank cost, the dearest first."""
        shares = self._window_shares()
        rows = [
            Blame(
                rank=rank,
                lost_ns=account.lost_ns,
                lost_rank_ns=account.lost_rank_ns,
                lost_frac=account.lost_ns / self._span_ns if self._span_ns else None,
                window_frac=shares.get(rank, 0.0) if shares is not None else None,
                num_last=account.num_last,
                worst_ns=account.worst_ns,
                mean_ns=account.lateness_ns / account.num if account.num else 0.0,
            )
            for rank, account in self._accounts.items()
        ]
        return sorted(rows, key=lambda row: (-row.lost_ns, row.rank))

    def barriers(self) -> list[BarrierStats]:
        """Return what is waited for at each barrier of the steps, by name."""
        return [
            BarrierStats(name, num, total / num, worst)
            for name, (num, total, worst) in sorted(self._names.items())
            if num
        ]

    def _enter(self, origin: Origin) -> bool:
        """Whether a line belongs to the newest attempt; a newer one begins anew."""
        if origin.attempt > self._attempt:
            self._attempt, self._span_ns, self._arrivals = origin.attempt, 0, Arrivals()
            self._streak, self._is_begun = None, False
            self._accounts.clear()
            self._names.clear()
            self._spans.clear()
            self._window.clear()
        return origin.attempt == self._attempt

    def _note_span(self, step: int, span_ns: int) -> None:
        """Note how long a step took on the rank where it took longest."""
        known_ns = self._spans.get(step, 0)
        if span_ns > known_ns:
            self._spans[step] = span_ns
            self._span_ns += span_ns - known_ns
            if len(self._spans) > _MAX_SPANS:
                self._spans.popitem(last=False)

    def _cost(self, step: int) -> _StepCost:
        """Return the window's entry of a step, which makes room for it."""
        cost = self._window.get(step)
        if cost is None:
            cost = self._window[step] = _StepCost()
            if len(self._window) > WINDOW_STEPS:
                self._window.popitem(last=False)
        cost.span_ns = max(cost.span_ns, self._spans.get(step, 0))
        return cost

    def _settle(self, settled: Settled) -> None:
        """Put a barrier that every rank has reported to the accounts."""
        for rank, late_ns in settled.lateness_ns.items():
            self._account(rank, late_ns)
        self.heat.put(settled.step, settled.lateness_ns)
        self._charge(settled.step, settled.lateness_ns)
        self._sum_name(settled)
        self._num_settled += 1
        if self._num_settled % _JUDGE_EVERY == 0:
            self._follow_streak()

    def _account(self, rank: int, late_ns: int) -> None:
        account = self._accounts.get(rank)
        if account is None:
            account = self._accounts[rank] = _Account()
        account.num += 1
        account.lateness_ns += late_ns
        account.worst_ns = max(account.worst_ns, late_ns)

    def _charge(self, step: int, found: dict[int, int]) -> None:
        """Put the barrier's loss to the account of the last to arrive."""
        last = max(found, key=found.__getitem__)
        lost_rank_ns = sum(found[last] - late for late in found.values())
        lost_ns = lost_rank_ns // (len(found) - 1)
        account = self._accounts[last]
        account.num_last += 1
        account.lost_ns += lost_ns
        account.lost_rank_ns += lost_rank_ns
        cost = self._cost(step)
        cost.lost_ns[last] = cost.lost_ns.get(last, 0) + lost_ns

    def _sum_name(self, settled: Settled) -> None:
        if settled.name not in self._names and len(self._names) >= _MAX_NAMES:
            return
        sums = self._names.setdefault(settled.name, [0, 0, 0])
        sums[0] += len(settled.lateness_ns)
        sums[1] += settled.wait_ns
        sums[2] = max(sums[2], *settled.lateness_ns.values())

    def _window_shares(self) -> dict[int, float] | None:
        costs = self._window.values()
        span_ns = sum(cost.span_ns for cost in costs)
        if not span_ns:
            return None
        lost: dict[int, int] = {}
        for cost in costs:
            for rank, lost_ns in cost.lost_ns.items():
                lost[rank] = lost.get(rank, 0) + lost_ns
        return {rank: lost_ns / span_ns for rank, lost_ns in lost.items()}

    def _judge(self) -> Straggler | None:
        shares, costs = self._window_shares(), self._window
        if not shares or len(costs) < _MIN_STEPS:
            return None
        rank = max(shares, key=shares.__getitem__)
        blamed = [step for step, cost in costs.items() if _is_to_blame(rank, cost)]
        if not blamed:
            return None
        is_persistent = len(blamed) >= _PERSISTENT_FRAC * len(costs)
        since = self._streak if self._streak else (rank, is_persistent, min(blamed))
        return Straggler(
            rank=rank,
            lost_frac=shares[rank],
            total_lost_frac=sum(shares.values()),
            is_persistent=is_persistent,
            since_step=(
                since[2] if since[:2] == (rank, is_persistent) else min(blamed)
            ),
            num_steps=len(costs),
        )

    def _follow_streak(self) -> None:
        """Remember since when the same rank is to blame in the same way."""
        found = self._judge()
        if found is None:
            self._streak = None
        elif self._streak is None or self._streak[:2] != _kind(found):
            self._streak = (found.rank, found.is_persistent, found.since_step)


def _kind(found: Straggler) -> tuple[int, bool]:
    return found.rank, found.is_persistent


def _is_to_blame(rank: int, cost: _StepCost) -> bool:
    """Whether a step was held up by this rank, beyond what is noise."""
    lost_ns = cost.lost_ns.get(rank, 0)
    floor_ns = max(_NOISE_NS, _NOISE_FRAC * cost.span_ns)
    return lost_ns >= floor_ns and lost_ns == max(cost.lost_ns.values())
