"""Which rank the others wait for, what that costs, and when it changes.

A barrier's loss is what the other ranks waited for the last to arrive: their
median wait, so that a second slow rank does not hide the first. It is put to
the last rank's account. A verdict looks at the last steps and is told only
when it changes; a rank that is last once in a while is not a straggler.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import NamedTuple

WINDOW_STEPS = 20
"""A straggler is named within so many steps."""
MIN_STEPS = 8
"""Fewer steps tell nothing."""
NAMED_FRAC = 0.05
"""Share of the window's time from which a rank is named."""
CLEARED_FRAC = 0.025
"""Share below which a named rank is cleared; between the two nothing changes."""
ROTATING_FRAC = 0.10
"""Share from which waiting for ever another rank is told."""
CLEARED_ROTATING_FRAC = 0.05

_DOMINANT_FRAC = 0.75
"""Of what was lost, from which it was lost to one rank and not to ever another."""
_PERSISTENT_FRAC = 0.5
"""Of the window's steps, from which the rank is late again and again."""
_STREAK_FRAC = 0.8
"""Of the steps since a straggler began, at least, were lost to it."""
_CONFIRMATIONS = 3
"""Verdicts in a row that have to agree before a change is told."""


class Loss(NamedTuple):
    """What one barrier cost."""

    rank: int
    """The last to arrive."""
    wall_ns: int
    """Median wait of the other ranks: what the step would gain without it."""
    rank_ns: int
    """Waits of the other ranks, summed."""


class Verdict(NamedTuple):
    """Who costs the others most over the last steps."""

    straggler: int | None
    """A rank; None: it is ever another one, or nobody."""
    lost_frac: float
    """Share of the window's time that was lost: to that rank, or to all of them."""
    is_rotating: bool
    """Much is lost, but to no rank in particular."""
    since_step: int
    """First step of the window that was lost so."""


@dataclass
class Account:
    """What one rank has cost since the fold began."""

    wall_ns: int = 0
    rank_ns: int = 0
    """Rank-seconds that the others lost, in ns."""
    num_last: int = 0
    worst_ns: int = 0
    """The greatest loss at one barrier."""


_NOBODY = Verdict(None, 0.0, is_rotating=False, since_step=0)


class _StepLoss(NamedTuple):
    step: int
    step_ns: int
    wall_ns: dict[int, int]


def loss_of(lateness_ns: Mapping[int, int]) -> Loss | None:
    """Return what a barrier cost; None: fewer than two ranks.

    Args:
        lateness_ns: By rank, after the first arrival.
    """
    if len(lateness_ns) < 2:
        return None
    last = max(lateness_ns, key=lambda rank: lateness_ns[rank])
    waits = [
        lateness_ns[last] - late for rank, late in lateness_ns.items() if rank != last
    ]
    return Loss(last, int(median(waits)), sum(waits))


@dataclass
class StragglerFold:
    """Folds the lateness at each step's barriers into verdicts."""

    total_ns: int = 0
    """Of all steps so far."""
    newest_step: int = 0
    accounts: dict[int, Account] = field(default_factory=dict)
    _window: deque[_StepLoss] = field(
        default_factory=lambda: deque(maxlen=WINDOW_STEPS)
    )
    _told: Verdict = _NOBODY
    _num_agreeing: int = 0
    _candidate: tuple[int | None, bool] = (None, False)

    @property
    def verdict(self) -> Verdict:
        """What holds now."""
        return self._told

    def observe(
        self, step: int, lateness_ns: Sequence[Mapping[int, int]], step_ns: int
    ) -> Verdict | None:
        """Take in a step that all ranks have told; return a verdict that is new.

        Args:
            step: Its number; steps come in order.
            lateness_ns: At each of its barriers, by rank.
            step_ns: How long the step took; 0: not known, as of the first one
                after a pause, which says nothing about stragglers.
        """
        wall_ns: dict[int, int] = {}
        for found in lateness_ns:
            loss = loss_of(found)
            if loss is not None:
                wall_ns[loss.rank] = wall_ns.get(loss.rank, 0) + loss.wall_ns
                self._charge(loss)
        self.newest_step = step
        if step_ns <= 0:
            return None
        self.total_ns += step_ns
        self._window.append(_StepLoss(step, step_ns, wall_ns))
        return self._change() if len(self._window) >= MIN_STEPS else None

    def lost_frac(self, rank: int | None) -> float:
        """Return the share of all time so far that was lost to a rank; None: to all."""
        lost_ns = sum(account.wall_ns for account in self._accounts(rank))
        return lost_ns / self.total_ns if self.total_ns else 0.0

    def lost_rank_ns(self, rank: int | None) -> int:
        """Return the rank-seconds, in ns, lost to a rank so far; None: to all."""
        return sum(account.rank_ns for account in self._accounts(rank))

    def _accounts(self, rank: int | None) -> list[Account]:
        return [a for r, a in self.accounts.items() if rank in (None, r)]

    def _charge(self, loss: Loss) -> None:
        account = self.accounts.setdefault(loss.rank, Account())
        account.wall_ns += loss.wall_ns
        account.rank_ns += loss.rank_ns
        account.num_last += 1
        account.worst_ns = max(account.worst_ns, loss.wall_ns)

    def _change(self) -> Verdict | None:
        verdict = self._judge()
        kind = (verdict.straggler, verdict.is_rotating)
        if kind == (self._told.straggler, self._told.is_rotating):
            self._num_agreeing = 0
            return None
        self._num_agreeing = self._num_agreeing + 1 if kind == self._candidate else 1
        self._candidate = kind
        if self._num_agreeing < _CONFIRMATIONS:
            return None
        self._told, self._num_agreeing = verdict, 0
        return verdict

    def _judge(self) -> Verdict:
        """Return what the window says; what was told once is kept more easily."""
        shares = self._shares()
        all_frac = sum(shares.values())
        rank = max(shares, key=lambda r: shares[r], default=-1)
        if shares and shares[rank] >= _DOMINANT_FRAC * all_frac:
            least = CLEARED_FRAC if rank == self._told.straggler else NAMED_FRAC
            if shares[rank] >= least:
                # Few long waits for one rank are neither persistent nor rotating.
                return self._persistent(rank, shares[rank], least) or self._told
            return Verdict(None, all_frac, is_rotating=False, since_step=self._first)
        least = CLEARED_ROTATING_FRAC if self._told.is_rotating else ROTATING_FRAC
        is_rotating = all_frac >= least and self._is_often_held_up(least)
        return Verdict(None, all_frac, is_rotating, self._first)

    def _is_often_held_up(self, least: float) -> bool:
        held_up = [
            max(step.wall_ns.values(), default=0) >= least / 2 * step.step_ns
            for step in self._window
        ]
        return sum(held_up) >= _PERSISTENT_FRAC * len(self._window)

    def _persistent(self, rank: int, frac: float, least: float) -> Verdict | None:
        held_up = [s.step for s in self._window if _is_held_up_by(rank, s, least)]
        if len(held_up) < _PERSISTENT_FRAC * len(self._window):
            return None
        return Verdict(rank, frac, is_rotating=False, since_step=self._since(held_up))

    def _since(self, held_up: list[int]) -> int:
        """Return the first step from which on most were held up."""
        steps = [step.step for step in self._window]
        for first in held_up:
            num_steps = sum(step >= first for step in steps)
            if sum(step >= first for step in held_up) >= _STREAK_FRAC * num_steps:
                return first
        return held_up[-1]

    def _shares(self) -> dict[int, float]:
        """Return the share of the window's time that was lost to each rank."""
        total_ns = sum(step.step_ns for step in self._window) or 1
        lost: dict[int, int] = {}
        for step in self._window:
            for rank, wall_ns in step.wall_ns.items():
                lost[rank] = lost.get(rank, 0) + wall_ns
        return {rank: wall_ns / total_ns for rank, wall_ns in lost.items()}

    @property
    def _first(self) -> int:
        return self._window[0].step


def _is_held_up_by(rank: int, step: _StepLoss, least: float) -> bool:
    """Whether a step was lost to a rank more than to any other."""
    wall_ns = step.wall_ns.get(rank, 0)
    return wall_ns >= least / 2 * step.step_ns and wall_ns == max(step.wall_ns.values())
