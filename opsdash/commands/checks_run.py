"""What can be read of a run, and what could be done with it from here.

A run that lives is listened to for a moment: what lay on the disk before says
nothing about whose clock is right now.
"""

import time
from collections.abc import Iterator

from agent.rundir.attempts import read_newest_attempt
from agent.rundir.layout import RunDir
from opsdash import units
from opsdash.commands.checks import Check, Mark
from opsdash.commands.checks_host import check_peer
from opsdash.commands.watching import TICK_S, Watched, attach, be_sure
from opsdash.operations.trust import why_untrusted
from opsdash.projections.ranks import CLOCK_SKEW_NS
from opsdash.projections.run_state import State

_LISTEN_S = 2.5
"""Two heartbeats, and some time to come here."""


def check_run(run: RunDir) -> Iterator[Check]:
    """Look at state, telemetry, who may write it, and the recorded environment."""
    watched = attach(run.path)
    verdict = be_sure(watched)
    is_fine = verdict.state in (State.HEALTHY, State.FINISHED)
    yield Check(
        Mark.OK if is_fine else Mark.WARN,
        "state",
        f"{verdict.state}: {verdict.headline}",
        "" if is_fine else f"opsdash status {run.path}",
    )
    events = watched.run.events
    num_unread = events.num_undecodable + events.num_overlong
    yield Check(
        Mark.WARN if num_unread else Mark.OK,
        "telemetry",
        f"{units.count(len(events))} events kept, {units.count(num_unread)} lines "
        f"unreadable, {units.count(events.num_newer)} of a newer kind",
    )
    if verdict.state not in (State.DEAD, State.FINISHED):
        _listen(watched)
    yield from _clocks(watched)
    yield from _attempt(run)


def _listen(watched: Watched) -> None:
    """Read on until every process was heard while it spoke, or time is up."""
    until_s = time.monotonic() + _LISTEN_S
    while time.monotonic() < until_s:
        rows = watched.run.rank_rows(time.monotonic_ns())
        if all(row.ended or row.clock_skew_ns is not None for row in rows):
            return
        time.sleep(TICK_S)
        watched.read()


def _clocks(watched: Watched) -> Iterator[Check]:
    """Tell of processes whose wall clock differs from this host's."""
    for row in watched.run.rank_rows(time.monotonic_ns()):
        skew_ns = row.clock_skew_ns
        if skew_ns is not None and abs(skew_ns) > CLOCK_SKEW_NS:
            where = "ahead of" if skew_ns > 0 else "behind"
            yield Check(
                Mark.WARN,
                f"clock of {row.node}",
                f"{units.duration(abs(skew_ns))} {where} this host's",
                f"chronyc tracking   # on {row.host or 'its host'}",
            )


def _attempt(run: RunDir) -> Iterator[Check]:
    attempt = read_newest_attempt(run)
    if attempt is None:
        yield Check(Mark.WARN, "attempts", "none can be read")
        return
    open_to = why_untrusted(run, attempt.attempt)
    yield Check(
        Mark.WARN if open_to else Mark.OK,
        "resume",
        open_to or "only you can write what would be started",
        f"chmod go-w {run.path} {run.attempts}" if open_to else "",
    )
    hosts = "1 host" if attempt.num_nodes == 1 else f"{attempt.num_nodes} hosts"
    ranks = "" if attempt.world_size is None else f"{attempt.world_size} ranks on "
    batch = f", batch job {attempt.batch_job}" if attempt.batch_job else ""
    yield Check(
        Mark.OK,
        f"attempt {attempt.attempt}",
        f"{ranks}{hosts}, started on {attempt.process.host}{batch}",
    )
    for name, value in sorted(attempt.environment.items()):
        yield Check(Mark.NOTE, f"it had {name}", value)
    if attempt.num_nodes > 1:
        yield from check_peer(attempt.environment)
