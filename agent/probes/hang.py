"""Name a hang while it lasts: where, who is missing, and what they do instead.

Only a rank that waits itself beyond its limit looks at the others, so a
healthy run costs nothing. Every such rank comes to the same conclusion; the
lowest one that is alive tells it, and the lowest one on each host takes the
stacks of those who are missing there; of a host where nobody waits, the agents
of the missing ones are asked. Of waits inside each other the outermost is named
at which somebody is missing; if all ranks came to all of them, the collective
inside.
"""

from collections.abc import Callable
from dataclasses import dataclass

from agent.emitter import Emitter
from agent.probes.activity import Activity
from agent.probes.barrier import BarrierProbe
from agent.probes.collectives import Collective
from agent.probes.host_stacks import HostStacks
from agent.probes.peers import Peers, Standing
from agent.probes.waiting import OwnWaits, Waiting
from agent.rundir.events import HangNamed, LastSeen

DEFAULT_LIMIT_S = 60.0
"""Of a wait, or of a step, for which nobody gave one."""
_LEAD_BEATS = 4
"""Looking begins so early before the limit, to know who is alive at it."""
_MAX_ASKS = 4
"""For the stacks of one rank while one wait lasts: it may still go on, slowly."""

_Place = tuple[int | None, int | None, str | None]


@dataclass(frozen=True)
class HangParts:
    """What the watch looks at, and through what it acts."""

    emitter: Emitter
    activity: Activity
    barriers: BarrierProbe
    peers: Peers
    host: HostStacks
    write_stacks: Callable[[str], object]
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
        self._waits = OwnWaits(
            parts.activity,
            parts.barriers,
            parts.sample_collectives,
            limit_s=limit_s,
            lead_ns=int(_LEAD_BEATS * period_s * 1e9),
        )
        self._dumped: tuple[str, int] | None = None
        self._asked: dict[int, list[_Place]] = {}
        """Who was asked for stacks because of that wait, and where it stood then."""
        self._named: Waiting | None = None
        self._told: tuple[int, ...] = ()

    def look(self) -> None:
        """Look where this rank waits, and beyond the limit who is missing there."""
        if self._parts.host.is_busy:
            self._parts.host.look()
        waits = self._waits.look()
        if self._named is not None:
            same = [wait for wait in waits if wait.place == self._named.place]
            if same:
                self._named = same[0]
            else:
                self._clear()
        if not self._waits.is_near(waits):
            self._parts.peers.forget()
            return
        standings = self._parts.peers.look(reach_ns=_reach_ns(waits))
        if self._parts.peers.is_informed:
            self._judge(waits, standings)

    def _judge(self, waits: list[Waiting], standings: dict[int, Standing]) -> None:
        """Name who is missing at the outermost wait where somebody is."""
        for wait in waits:
            if not wait.is_overdue:
                continue
            missing = self._missing(wait, waits, standings)
            if missing:
                self._act(wait, missing, standings)
                return
            if self._is_named(wait) and wait.collective is None:
                self._clear()  # all have come; who is missing further inside is news

    def _missing(
        self, wait: Waiting, waits: list[Waiting], standings: dict[int, Standing]
    ) -> tuple[int, ...]:
        me = self._parts.emitter.rank
        assert me is not None
        missing = tuple(
            rank
            for rank, standing in standings.items()
            if rank != me and not _has_arrived(wait, standing)
        )
        if wait.collective is None:
            return missing
        inside = {one.place for one in waits if one.collective is None}
        return self._missing_at_collective(
            wait.collective.group, missing, inside, standings
        )

    def _act(
        self, wait: Waiting, missing: tuple[int, ...], standings: dict[int, Standing]
    ) -> None:
        me = self._parts.emitter.rank
        assert me is not None
        there = [r for r, s in standings.items() if r == me or _has_arrived(wait, s)]
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
        group: str,
        behind: tuple[int, ...],
        inside: set[tuple[str, int]],
        standings: dict[int, Standing],
    ) -> tuple[int, ...]:
        """Return who is behind for certain, and not only seen long ago.

        That is who is silent, and who has told its latest collectives because it
        stands still itself, this group's among them: who has none is no member of
        it. Who waits at another barrier with a name has a watch that tells of that.

        Args:
            group: Of the collective.
            behind: Ranks that were not seen to have started it.
            inside: The wrapped waits in which this rank stands.
            standings: Of all ranks.
        """
        peers, me = self._parts.peers, self._parts.emitter.rank
        heard = [r for r in standings if r == me or not peers.is_silent(r)]
        if {standings[r].waiting_at for r in heard} - inside - {None}:
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
        self, wait: Waiting, missing: tuple[int, ...], standings: dict[int, Standing]
    ) -> None:
        if self._named is not None and not self._is_named(wait):
            self._clear()
        self._named, self._told = wait, missing
        self._emit(wait, tuple(self._last_seen(standings[rank]) for rank in missing))

    def _emit(self, wait: Waiting, last_seen: tuple[LastSeen, ...]) -> None:
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

    def _is_named(self, wait: Waiting) -> bool:
        return self._named is not None and self._named.place == wait.place

    def _clear(self) -> None:
        """Tell that the wait is over: nobody is missing any more."""
        assert self._named is not None
        self._emit(self._named, ())
        self._named, self._told = None, ()


def _reach_ns(waits: list[Waiting]) -> int:
    """Return how far back others may have told that they came to the outer wait.

    Who has left it since tells it in no beat any more.
    """
    is_nested = len(waits) > 1 and waits[1].collective is None
    return waits[0].age_ns if is_nested else 0


def _has_arrived(wait: Waiting, standing: Standing) -> bool:
    if wait.collective is not None:
        return standing.collectives.get(wait.collective.group, -1) >= wait.number
    return standing.has_arrived(wait.name, wait.number)


def _place(standing: Standing) -> _Place:
    """Return what changes when a rank goes on, also between two of its beats."""
    return standing.progress, standing.step, standing.phase
