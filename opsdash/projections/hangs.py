"""Collectives that hang without a barrier around them, as their agents tell it.

Whoever waits tells once that its limit is past, and when that wait is over; who
else stands there is told by samples of collectives. Only the newest attempt can
hang; a new one clears all. Barriers with a name are the board's business.
"""

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from agent.rundir.events import (
    CollectivesSampled,
    HangNamed,
    Heartbeat,
    RunEnded,
    RunStarted,
    StepDone,
)
from opsdash.projections.barriers import AgeOf, BoardRow, Waiting
from opsdash.projections.batch import Batch, Origin
from opsdash.projections.newest import NewestAttempt
from opsdash.projections.plausible import (
    MAX_NODES,
    MAX_RANKS,
    clip,
    nanoseconds,
    whole,
)

_MAX_GROUPS = 64
"""Of one process: some trainers make new groups for ever."""


class InCollective(NamedTuple):
    """Where a process stands that has told to stand still."""

    group: str
    number: int
    """Sequence number in its group."""
    age_ns: int
    """Since its host started it."""


class _Start(NamedTuple):
    number: int
    since_mono_ns: int


@dataclass(frozen=True, slots=True)
class _Named:
    name: str
    index: int
    group: str
    missing: tuple[int, ...]
    since_mono_ns: int
    told_ns: int
    """Wall clock: of two who tell the same hang the later one counts."""
    limit_ns: int | None

    @property
    def place(self) -> tuple[str, int]:
        return self.group, self.index


class Hangs:
    """Folds `hang_named` of collectives, and who stands in which."""

    def __init__(self) -> None:
        self._named: dict[str, _Named] = {}
        """By process that waits; each tells of one hang at a time."""
        self._started: dict[str, OrderedDict[str, _Start]] = {}
        """By process, then group: the latest collective."""
        self._progress: dict[str, int] = {}
        self._still: dict[str, int | None] = {}
        """By process: the progress at which it told to stand still."""
        self._newest = NewestAttempt(
            self._named, self._started, self._progress, self._still
        )

    def on_batch(self, batch: Batch) -> None:
        """Take in that a newer attempt exists: nobody of an older one hangs."""
        self._newest.begin(batch.directory.newest_attempt)

    def on_started(self, origin: Origin, event: RunStarted) -> None:
        """Take in that a process began, maybe anew: it hangs nowhere yet."""
        if event.segment == 1 and self._newest.admits(origin):
            self._forget(origin.stem)

    def on_ended(self, origin: Origin, event: RunEnded) -> None:  # noqa: ARG002 - one signature for all folds
        """Take in that a process is gone: it waits no more."""
        if self._newest.admits(origin):
            self._forget(origin.stem)

    def on_named(self, origin: Origin, event: HangNamed) -> None:
        """Take in that somebody is missing at a collective, or nobody any more."""
        if not self._newest.admits(origin):
            return
        self._named.pop(origin.stem, None)
        index, waited_ns = whole(event.index), nanoseconds(event.waited_ns)
        if event.group is None or index is None or not event.missing:
            return
        self._named[origin.stem] = _Named(
            name=clip(event.barrier, 80),
            index=index,
            group=clip(event.group, 80),
            missing=tuple(r for r in event.missing[:MAX_NODES] if _is_rank(r)),
            since_mono_ns=event.mono_ns - (waited_ns or 0),
            told_ns=event.time_ns,
            limit_ns=nanoseconds(event.limit_ns),
        )

    def on_sampled(self, origin: Origin, event: CollectivesSampled) -> None:
        """Take in the latest collective of a process in one group."""
        if event.unavailable or not self._newest.admits(origin):
            return
        if event.is_still:
            self._still[origin.stem] = self._progress.get(origin.stem)
        first_id = whole(event.first_id)
        if first_id is None or not event.started_ns:
            return
        age_ns = nanoseconds(event.time_ns - event.started_ns[-1]) or 0
        groups = self._started.setdefault(origin.stem, OrderedDict())
        group = clip(event.group, 80)
        groups[group] = _Start(
            first_id + len(event.started_ns) - 1, event.mono_ns - age_ns
        )
        groups.move_to_end(group)
        if len(groups) > _MAX_GROUPS:
            groups.popitem(last=False)

    def on_heartbeat(self, origin: Origin, event: Heartbeat) -> None:
        """Take in whether a process that stood still has gone on."""
        progress = whole(event.progress)
        if progress is None or not self._newest.admits(origin):
            return
        still_at = self._still.get(origin.stem, progress)
        if still_at is None:
            self._still[origin.stem] = progress
        elif still_at != progress:
            del self._still[origin.stem]
        self._progress[origin.stem] = progress

    def on_step(self, origin: Origin, event: StepDone) -> None:  # noqa: ARG002 - one signature for all folds
        """Take in that a process has gone on."""
        if self._newest.admits(origin):
            self._named.pop(origin.stem, None)
            self._still.pop(origin.stem, None)

    def standing(self, stem: str, age_of: AgeOf) -> InCollective | None:
        """Return the collective that a process stands in; None: nobody told."""
        groups = self._started.get(stem)
        if stem not in self._still or not groups:
            return None
        group, start = max(groups.items(), key=lambda item: item[1].since_mono_ns)
        return InCollective(group, start.number, age_of(stem, start.since_mono_ns))

    def rows(self, age_of: AgeOf, world_size: int | None) -> list[BoardRow]:
        """Return a row per collective that hangs, as the board has them."""
        newest: dict[tuple[str, int], _Named] = {}
        for named in sorted(self._named.values(), key=lambda one: one.told_ns):
            newest[named.place] = named
        rows = []
        for named in newest.values():
            waiting = sorted(self._waiting(named, age_of), key=lambda w: -w.waited_ns)
            rows.append(
                BoardRow(
                    name=named.name,
                    index=named.index,
                    arrived=tuple(waiting),
                    missing=named.missing,
                    num_expected=world_size,
                    limit_ns=named.limit_ns,
                )
            )
        return rows

    def _waiting(self, named: _Named, age_of: AgeOf) -> Iterator[Waiting]:
        """Yield who has started it: who tells so itself, and who was sampled there."""
        for stem, rank in self._newest.ranks.items():
            told = self._named.get(stem)
            groups = self._started.get(stem)
            start = groups.get(named.group) if groups else None
            if told is not None and told.place == named.place:
                yield Waiting(stem, rank, age_of(stem, told.since_mono_ns))
            elif (
                stem in self._still
                and start is not None
                and start.number >= named.index
                and rank not in named.missing
            ):
                yield Waiting(stem, rank, age_of(stem, start.since_mono_ns))

    def _forget(self, stem: str) -> None:
        for state in (self._named, self._started, self._progress, self._still):
            state.pop(stem, None)


def _is_rank(rank: int) -> bool:
    return whole(rank, MAX_RANKS) is not None
