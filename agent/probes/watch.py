"""Which duties the agent's thread has in this process.

Every process beats and samples its host. Ranks of a group also watch for
hangs and sample their collectives; rank 0 names stragglers; whoever acts for
the run reads its inbox and looks after its documents. Once another run lies in
the directory, none but what writes events goes on.
"""

from dataclasses import dataclass
from functools import partial

from agent.emitter import Emitter
from agent.probes.activity import Activity
from agent.probes.barrier import BarrierProbe
from agent.probes.collectives import CollectivesProbe
from agent.probes.documents import Documents
from agent.probes.hang import HangParts, HangWatch
from agent.probes.heartbeat import HeartbeatProbe
from agent.probes.home import Home
from agent.probes.host import HostProbe
from agent.probes.host_stacks import HostStacks
from agent.probes.inbox import Inbox
from agent.probes.peers import Peers
from agent.probes.pulse import TICKS_PER_BEAT, Duty, Pulse
from agent.probes.stacks import Stacks
from agent.probes.stacks_request import StacksOnRequest
from agent.probes.straggler import StragglerWatch
from agent.rundir.layout import RunDir

_HOST_EVERY = 5 * TICKS_PER_BEAT


@dataclass(frozen=True)
class Watched:
    """One process, as its duties see it."""

    emitter: Emitter
    run: RunDir
    attempt: int
    world_size: int
    """Ranks of the process group; 1 where there is none."""
    activity: Activity
    barriers: BarrierProbe
    stacks: Stacks
    inbox: Inbox | None
    documents: Documents | None
    """Where there is an inbox."""
    hang_limit_s: float


def add_duties(pulse: Pulse, watched: Watched) -> None:
    """Put every duty of a process on its pulse; the beat comes first."""
    emitter, run, home = watched.emitter, watched.run, Home(watched.run)
    beat = HeartbeatProbe(emitter, watched.activity, watched.barriers)
    host = HostProbe(run.path, emitter)
    pulse.add(Duty("heartbeat", beat.look))
    pulse.add(Duty("run", home.look))
    pulse.add(Duty("files", home.only_here(emitter.tend)))
    pulse.add(Duty("host", host.look, every=_HOST_EVERY, first=TICKS_PER_BEAT))
    if watched.documents is not None:
        pulse.add(Duty("documents", home.only_here(watched.documents.look)))
    pulse.add(Duty("stacks", home.only_here(watched.stacks.look)))
    if watched.inbox is not None:
        pulse.add(Duty("requests", watched.inbox.look))
    on_request = StacksOnRequest(
        run=run,
        attempt=watched.attempt,
        rank=emitter.rank,
        stacks=watched.stacks,
        peers=_peers(pulse, watched),
        host=HostStacks(emitter, run, watched.attempt),
        inbox=watched.inbox,
    )
    look, end = home.only_here(on_request.look), home.only_here(on_request.end)
    pulse.add(Duty("stacks on request", look, at_end=end))
    if emitter.rank is not None and watched.world_size > 1:
        _add_duties_of_a_rank(pulse, watched, home, emitter.rank)


def _add_duties_of_a_rank(
    pulse: Pulse, watched: Watched, home: Home, rank: int
) -> None:
    emitter, run, attempt = watched.emitter, watched.run, watched.attempt
    collectives = CollectivesProbe(emitter, watched.activity)
    hang = HangWatch(
        HangParts(
            emitter=emitter,
            activity=watched.activity,
            barriers=watched.barriers,
            peers=_peers(pulse, watched),
            host=HostStacks(emitter, run, attempt),
            write_stacks=watched.stacks.write,
            sample_collectives=partial(collectives.sample, is_still=True),
        ),
        limit_s=watched.hang_limit_s,
        period_s=pulse.period_s,
    )
    pulse.add(Duty("collectives", collectives.look, every=1))
    look = home.only_here(hang.look)
    pulse.add(Duty("hang", look, at_end=look))
    if rank == 0:
        straggler = StragglerWatch(emitter, run, attempt, watched.world_size)
        pulse.add(Duty("straggler", home.only_here(straggler.look), every=2))


def _peers(pulse: Pulse, watched: Watched) -> Peers:
    return Peers(
        watched.run, watched.attempt, watched.world_size, period_s=pulse.period_s
    )
