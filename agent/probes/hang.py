"""Name a hang while it lasts: where, who is missing, and what they do instead.

Only a rank that waits itself beyond its limit looks at the others, so a
healthy run costs nothing. Every such rank comes to the same conclusion; the
lowest one that is alive tells it, and the lowest one on each host takes the
stacks of those who are missing there; of a host where nobody waits, the agents
of the missing ones are asked. A wait that nobody wrapped is found by a
main thread that tells nothing, and named by the collective it started last.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from agent.emitter import Emitter
from agent.probes.activity import Activity, limit_in_ns
from agent.probes.barrier import BarrierProbe
from agent.probes.collectives import Collective
from agent.probes.host_stacks import HostStacks
from agent.probes.peers import Peers, Standing
from agent.rundir.events import HangNamed, LastSeen

DEFAULT_LIMIT_S = 60.0
"""Of a wait, or of a step, for which nobody gave one."""
_STEPS_OF_LIMIT = 10
"""A step that takes so many times the median is stuck, however long that is."""
_LEAD_BEATS = 4
"""Looking begins so early before the limit, to know who is alive at it."""

_MAX_ASKS = 4
"""For the stacks of one rank while one wait lasts: it may still go on, slowly."""

_Place = tuple[int | None, int | None, str | None]


class _Wait(NamedTuple):
    """What this rank waits for."""

    name: str
    number: int
    """Index of the barrier, or sequence number of the collective."""
    age_ns: int
    limit_ns: int
    collective: Collective | None = None

    def has_arrived(self, standing: Standing) -> bool:
        if self.collective is not None:
            return standing.collectives.get(self.collective.group, -1) >= self.number
        return standing.has_arrived(self.name, self.number)

    @property
    def place(self) -> tuple[str, int]:
        return self.name, self.number


@dataclass(frozen=True)
class HangParts:
    """What the watch looks at, and through what it acts."""

    emitter: Emitter
    activity: Activity
    barriers: BarrierProbe
    peers: Peers
    host: HostStacks
    write_stacks: Callable[[str], None]
    sample_collectives: Callable[[], Collective | None]


class HangWatch:
    """Asked at every beat."""

    def __init__(self, parts: HangParts, *, limit_s: float, period_s: float) -> None:
        """Watch one rank.

        Args:
            parts: See there.
            limit_s: Of waits and steps that have no limit of their own.
            period_s: From one beat to the next.
        """
        self._parts = parts
        self._limit_ns = limit_in_ns(limit_s) or 0
        self._lead_ns = int(_LEAD_BEATS * period_s * 1e9)
        self._still: tuple[int, int] = (-1, 0)
        """The last count of progress, and when it was first seen."""
        self._sampled = self._still
        """For which of them collectives were sampled last."""
        self._looked_ns = time.monotonic_ns()
        self._dumped: tuple[str, int] | None = None
        self._asked: dict[int, list[_Place]] = {}
        """Who was asked for stacks because of that wait, and where it stood then."""
        self._named: _Wait | None = None
        self._told: tuple[int, ...] = ()

    def look(self) -> None:
        """Look where this rank waits, and beyond the limit who is missing there."""
        if self._parts.host.is_busy:
            self._parts.host.look()
        wait = self._open_wait()
        if self._named is not None:
            if wait is None or wait.place != self._named.place:
                self._clear()
            else:
                self._named = wait
        if wait is None or wait.age_ns < wait.limit_ns - self._lead_ns:
            self._parts.peers.forget()
            return
        standings = self._parts.peers.look()
        if wait.age_ns >= wait.limit_ns and self._parts.peers.is_informed:
            self._judge(wait, standings)

    def _judge(self, wait: _Wait, standings: dict[int, Standing]) -> None:
        me = self._parts.emitter.rank
        assert me is not None
        there = [r for r, s in standings.items() if wait.has_arrived(s) or r == me]
        missing = tuple(r for r in standings if r not in there)
        if wait.collective is not None:
            group = wait.collective.group
            missing = self._missing_at_collective(me, group, missing, standings)
        if not missing:
            return
        what = f"`{wait.name}` has waited {wait.age_ns / 1e9:.1f} s"
        if self._dumped != wait.place:
            self._dumped = wait.place
            self._asked.clear()
            self._parts.write_stacks(what)
        alive = [r for r in there if r == me or self._parts.peers.is_alive(r)]
        is_news = me == min(alive) and missing != self._told
        if is_news:
            self._tell(wait, missing, standings)
        here = self._parts.host.ranks_here()
        if me == min(r for r in alive if r in here or r == me):
            self._ask(
                what, [r for r in missing if self._must_ask(standings[r])], standings
            )
        if is_news:
            self._parts.host.ask_elsewhere(missing, alive)

    def _missing_at_collective(
        self,
        me: int,
        group: str,
        behind: tuple[int, ...],
        standings: dict[int, Standing],
    ) -> tuple[int, ...]:
        """Return who is behind for certain, and not only seen long ago.

        That is who is silent, and who has told its latest collectives because it
        stands still itself, this group's among them: who has none is no member of
        it. Who waits at a barrier with a name has a watch that
        tells of that.
        """
        peers = self._parts.peers
        heard = [r for r in standings if r == me or not peers.is_silent(r)]
        if any(standings[r].waiting_at is not None for r in heard):
            return ()
        return tuple(
            rank
            for rank in behind
            if rank not in heard
            or (
                group in standings[rank].collectives
                and standings[rank].has_told_latest
                and peers.is_still(rank)
            )
        )

    def _tell(
        self, wait: _Wait, missing: tuple[int, ...], standings: dict[int, Standing]
    ) -> None:
        self._named, self._told = wait, missing
        self._emit(wait, tuple(self._last_seen(standings[rank]) for rank in missing))

    def _emit(self, wait: _Wait, last_seen: tuple[LastSeen, ...]) -> None:
        self._parts.emitter.emit(
            HangNamed,
            barrier=wait.name,
            missing=tuple(seen.rank for seen in last_seen),
            waited_ns=wait.age_ns,
            index=wait.number,
            group=wait.collective.group if wait.collective else None,
            limit_ns=wait.limit_ns,
            last_seen=last_seen,
        )

    def _last_seen(self, standing: Standing) -> LastSeen:
        return LastSeen(
            rank=standing.rank,
            phase=standing.phase,
            step=standing.step,
            waiting_at=standing.waiting_at[0] if standing.waiting_at else None,
            stacks=self._parts.host.file_of(standing.rank),
        )

    def _must_ask(self, standing: Standing) -> bool:
        """Whether a rank was not asked yet, or has come to another place since."""
        rank, asked = standing.rank, self._asked.get(standing.rank, [])
        if not asked:
            return True
        has_moved = asked[-1] != _place(standing) and self._parts.peers.is_still(rank)
        return has_moved and len(asked) < _MAX_ASKS

    def _ask(
        self, what: str, missing: list[int], standings: dict[int, Standing]
    ) -> None:
        for rank in missing:
            standing = standings[rank]
            self._asked.setdefault(rank, []).append(_place(standing))
            self._parts.host.ask(
                [rank],
                f"{what} for rank {rank}, last seen in phase "
                f"`{standing.phase or 'unknown'}` at step {standing.step}",
            )

    def _clear(self) -> None:
        """Tell that the wait is over: nobody is missing any more."""
        assert self._named is not None
        self._emit(self._named, ())
        self._named, self._told = None, ()

    def _open_wait(self) -> _Wait | None:
        now = time.monotonic_ns()
        opened = self._parts.barriers.current
        if opened is not None:
            limit_ns = opened.limit_ns or self._default_limit_ns()
            age_ns = now - opened.since_mono_ns
            return _Wait(opened.name, opened.index, age_ns, limit_ns)
        return self._unnamed_wait(now)

    def _unnamed_wait(self, now: int) -> _Wait | None:
        """Return the collective that a main thread without progress may be in."""
        activity = self._parts.activity
        # While this thread was frozen too nothing is known of the main one.
        was_frozen = now - self._looked_ns > self._lead_ns
        self._looked_ns = now
        if self._still[0] != activity.progress or was_frozen:
            self._still = (activity.progress, now)
            return None
        phase, default_ns = activity.phase, self._default_limit_ns()
        limit_ns = phase.limit_ns
        if limit_ns is None and phase.name == "training":
            limit_ns = default_ns
        age_ns = now - self._still[1] + self._lead_ns
        if age_ns < min(default_ns, limit_ns or default_ns):
            return None
        is_wait = limit_ns is not None and age_ns >= limit_ns
        if not is_wait and self._sampled == self._still:
            return None
        # Also where this rank may take longer: the others may wait for it by now.
        last, self._sampled = self._parts.sample_collectives(), self._still
        if last is None or limit_ns is None or not is_wait:
            return None
        name = f"{last.name} {last.id} of group {last.group}"
        return _Wait(name, last.id, age_ns - self._lead_ns, limit_ns, last)

    def _default_limit_ns(self) -> int:
        step_ns = self._parts.activity.step_ns() or 0
        return max(self._limit_ns, _STEPS_OF_LIMIT * step_ns)


def _place(standing: Standing) -> _Place:
    """Return what changes when a rank goes on, also between two of its beats."""
    return standing.progress, standing.step, standing.phase
