"""What is worth saying about a run, each with the command that helps.

One function per threshold of the contract. A limit that the trainer gave for a
phase goes before ours; where it gave none, what may take minutes has minutes.
"""

import shlex
from collections.abc import Iterable, Iterator

from agent.rundir.process import Liveness
from opsdash import units
from opsdash.projections.barriers import BoardRow
from opsdash.projections.damage import damage_notes, found_first
from opsdash.projections.event_words import Severity
from opsdash.projections.ranks import RankRow
from opsdash.projections.run_state import (
    STALE_NS,
    START_NS,
    Evidence,
    Fix,
    Reason,
    own_fix,
)

RUNWAY_CHECKPOINTS = 3
_DROP_MEMORY_NS = 600 * 10**9
_UNVERIFIED_GRACE_NS = 60 * 10**9
"""Reading back a checkpoint that was just published takes its time."""
_SKEW_NS = 5 * 10**9
_MINUTE_NS = 60 * 10**9
_PHASE_LIMITS_NS: dict[str, int] = {
    "starting": 5 * _MINUTE_NS,
    "loading": 10 * _MINUTE_NS,
    "saving": 10 * _MINUTE_NS,
    "evaluating": 10 * _MINUTE_NS,
    "compiling": 15 * _MINUTE_NS,
    "ending": 5 * _MINUTE_NS,
}
_SLOW_STEP_FACTOR = 3
"""A step may take so many typical steps before it counts as stuck."""


def all_reasons(evidence: Evidence) -> list[Reason]:
    """Return everything worth saying."""
    found: list[Reason] = []
    for source in (
        _barriers,
        _processes,
        _heartbeats,
        _progress,
        _unheard_ranks,
        _straggler,
        _checkpoint,
        damage_notes,
        _nonfinite,
        _drops,
        _backlog,
        _disk,
        _clients,
        _telemetry,
        _notes,
    ):
        found += source(evidence)
    return found


def progress_limit_ns(row: RankRow, step_ns: int | None) -> int | None:
    """Return how long a process may stand still in its phase; None: for ever."""
    if row.limit_ns is not None:
        return row.limit_ns
    if row.phase == "paused":
        return None
    if row.phase == "training":
        if step_ns is None:
            return _MINUTE_NS
        return max(STALE_NS, _SLOW_STEP_FACTOR * step_ns)
    return _PHASE_LIMITS_NS.get(row.phase or "", _MINUTE_NS)


def wait_limit_ns(row: BoardRow, step_ns: int | None) -> int:
    """Return how long others may be waited for at a barrier."""
    if row.limit_ns is not None:
        return row.limit_ns
    return max(STALE_NS, _SLOW_STEP_FACTOR * (step_ns or 0))


def _alive(evidence: Evidence) -> list[RankRow]:
    """Return the processes that said no goodbye and are not known to be gone."""
    rows = evidence.ranks
    return [r for r in rows if not r.ended and r.liveness is not Liveness.DEAD]


def _barriers(evidence: Evidence) -> Iterator[Reason]:
    by_rank = {row.rank: row for row in evidence.ranks if row.rank is not None}
    for row in evidence.board:
        if row.waited_ns <= wait_limit_ns(row, evidence.step_ns) or not row.missing:
            continue
        waiting = [w.rank for w in row.arrived if w.rank is not None]
        missing = ", ".join(_doing(rank, by_rank.get(rank)) for rank in row.missing[:3])
        text = (
            f"{_ranks(waiting)} waiting at {row.name} for "
            f"{units.duration(row.waited_ns)}; missing: {missing}"
        )
        more = len(row.missing) - 3
        yield Reason(
            Severity.ERROR if row.is_hung else Severity.WARNING,
            text + (f" and {more} more" if more > 0 else ""),
            _command("barriers", evidence),
        )


def _processes(evidence: Evidence) -> Iterator[Reason]:
    gone = [r for r in evidence.ranks if not r.ended and r.liveness is Liveness.DEAD]
    if gone:
        who = "the process is" if len(gone) == 1 else "the processes are"
        text = f"{_nodes(gone)}: {who} gone without a goodbye"
        yield Reason(Severity.ERROR, text, _command("events", evidence))
    for row in [r for r in evidence.ranks if r.ended == "error"][:3]:
        text = f"{row.node} ended with an error: {row.error or 'untold'}"
        yield Reason(Severity.ERROR, text, _command("events", evidence))


def silent(evidence: Evidence) -> list[RankRow]:
    """Return who should beat and does not, in a pass that has read the newest."""
    missing = {client.client for client in evidence.absent}  # that is said of them
    if evidence.batch.backlog_bytes:  # the newest may lie unread
        return []
    return [
        row for row in _alive(evidence) if _is_silent(row) and row.stem not in missing
    ]


def still(evidence: Evidence) -> list[RankRow]:
    """Return who beats, waits nowhere, and makes no progress for too long."""
    return [
        row
        for row in _alive(evidence)
        if not row.waiting_at
        and not _is_silent(row)
        and (limit_ns := progress_limit_ns(row, evidence.step_ns)) is not None
        and (row.progress_age_ns or 0) > limit_ns
    ]


def _is_silent(row: RankRow) -> bool:
    return _silence_ns(row) > STALE_NS


def _silence_ns(row: RankRow) -> int:
    """Return how long its agent has been still: it may have died before any beat."""
    age_ns = row.heartbeat_age_ns
    return row.seen_age_ns if age_ns is None else age_ns


def _heartbeats(evidence: Evidence) -> Iterator[Reason]:
    late = silent(evidence)
    if late:
        longest = max(map(_silence_ns, late))
        yield Reason(
            Severity.WARNING,
            f"{_nodes(late)}: no heartbeat for {units.duration(longest)}",
            _command("status", evidence),
        )


def _progress(evidence: Evidence) -> Iterator[Reason]:
    by_phase: dict[str, list[RankRow]] = {}
    for row in still(evidence):
        by_phase.setdefault(row.phase or "phase untold", []).append(row)
    for phase, rows in by_phase.items():
        longest = max(row.progress_age_ns or 0 for row in rows)
        who = rows[0].node if len(rows) == 1 else _nodes(rows)
        verb = "has" if len(rows) == 1 else "have"
        yield Reason(
            Severity.WARNING,
            f"{who} {verb} made no progress for {units.duration(longest)} ({phase})",
            _command("status" if rows[0].rank is None else "barriers", evidence),
        )


def _unheard_ranks(evidence: Evidence) -> Iterator[Reason]:
    age_ns, world_size = evidence.attempt_age_ns, evidence.world_size
    if age_ns is None or age_ns <= START_NS:
        return
    there = {row.rank for row in evidence.ranks}
    expected = range(world_size or 0)
    missing = [rank for rank in expected if rank not in there]
    if missing and evidence.ranks:
        yield Reason(Severity.WARNING, f"{_ranks(missing)} wrote no telemetry")
    if not evidence.ranks:
        text = f"no telemetry {units.duration(age_ns)} after the start"
        yield Reason(Severity.WARNING, text, _command("doctor", evidence))


def _straggler(evidence: Evidence) -> Iterator[Reason]:
    late = evidence.straggler
    alive = _alive(evidence)
    if late is None or not alive or any(row.phase == "paused" for row in alive):
        return
    if not (late.is_persistent or late.is_rotating):
        return
    if late.is_persistent:
        text = (
            f"rank {late.rank} costs {units.percent(late.lost_frac)} of the time, "
            f"persistent since step {units.count(late.since_step)}"
        )
    else:
        text = (
            f"{units.percent(late.total_lost_frac)} of the time is waited for "
            f"changing ranks, rank {late.rank} most"
        )
    # Ever another rank is late: the host is busy, and no rank is to be mended.
    weight = Severity.WARNING if late.is_costly else Severity.INFO
    yield Reason(weight, text, _command("barriers", evidence))


def _checkpoint(evidence: Evidence) -> Iterator[Reason]:
    newest = evidence.newest
    if newest is None or newest.is_resumable:
        return
    fix = _command("verify", evidence)
    if newest.stage == "damaged":
        what = found_first(newest.why_not or "untold")
        text = f"the newest checkpoint {newest.name} is damaged: {what}"
        yield Reason(Severity.ERROR, text, fix)
        return
    is_saving = any(row.phase == "saving" for row in evidence.ranks)
    age_ns = evidence.now_ns - (newest.created_ns or 0)
    if not is_saving and abs(age_ns) > _UNVERIFIED_GRACE_NS:
        text = f"the newest checkpoint {newest.name} is not verified: {newest.why_not}"
        yield Reason(Severity.WARNING, text, fix)


def _nonfinite(evidence: Evidence) -> Iterator[Reason]:
    found = evidence.nonfinite
    if found is not None:
        yield Reason(
            Severity.WARNING,
            f"{found.what} was not finite at step {units.count(found.step)}",
            _command("optimizer", evidence),
        )


def _drops(evidence: Evidence) -> Iterator[Reason]:
    rows = [
        row
        for row in evidence.ranks
        if row.num_dropped
        and row.dropped_age_ns is not None
        and row.dropped_age_ns <= _DROP_MEMORY_NS
    ]
    if rows:
        num = sum(row.num_dropped for row in rows)
        text = f"{_nodes(rows)}: {units.count(num)} events were dropped"
        yield Reason(Severity.WARNING, text, _command("events", evidence))


def _backlog(evidence: Evidence) -> Iterator[Reason]:
    rows = [row for row in _alive(evidence) if row.backlog]
    if rows:
        num = sum(row.backlog for row in rows)
        text = f"{_nodes(rows)}: {units.count(num)} events wait for a disk that blocks"
        yield Reason(Severity.WARNING, text, _command("doctor", evidence))


def _disk(evidence: Evidence) -> Iterator[Reason]:
    free, newest = evidence.disk_free_bytes, evidence.newest
    size = newest.size_bytes if newest else None
    if free is None or not size:
        return
    if free < RUNWAY_CHECKPOINTS * size:
        room = units.number(free / size)
        yield Reason(
            Severity.WARNING,
            f"{units.byte_size(free)} free: room for {room} checkpoints",
            Fix(f"df -h {shlex.quote(evidence.path)}"),
        )


def _clients(evidence: Evidence) -> Iterator[Reason]:
    for client in evidence.absent[:3]:
        since = (
            "" if client.since_round is None else f" since round {client.since_round}"
        )
        why = f": {client.why_absent}" if client.why_absent else ""
        yield Reason(
            Severity.WARNING,
            f"{client.client} is missing{since}{why}",
            _command("rounds", evidence),
        )
    more = len(evidence.absent) - 3
    if more > 0:
        yield Reason(Severity.WARNING, f"{more} more clients are missing")


def _telemetry(evidence: Evidence) -> Iterator[Reason]:
    """What cannot be read, while something else can."""
    for problem in (*evidence.batch.problems, *evidence.batch.directory.problems)[:5]:
        yield Reason(Severity.WARNING, f"{problem.where}: {problem.text}")


def _notes(evidence: Evidence) -> Iterator[Reason]:
    """What does not degrade the run and must not be hidden."""
    if evidence.num_newer:
        text = f"{units.count(evidence.num_newer)} events of a newer kind"
        yield Reason(Severity.INFO, text, Fix("pip install --upgrade opsdash"))
    if evidence.num_undecodable:
        text = f"{units.count(evidence.num_undecodable)} lines could not be read"
        yield Reason(Severity.INFO, text, _command("events", evidence))
    if evidence.num_hidden:
        text = f"{units.count(evidence.num_hidden)} lines of processes not shown"
        yield Reason(Severity.INFO, text)
    skews = [r.clock_skew_ns for r in evidence.ranks if r.clock_skew_ns is not None]
    worst = max(skews, key=abs, default=0)
    if abs(worst) > _SKEW_NS:
        where = "ahead of" if worst > 0 else "behind"
        text = f"the run's wall clock is {units.duration(abs(worst))} {where} this one"
        yield Reason(Severity.INFO, text)


def _doing(rank: int, row: RankRow | None) -> str:
    if row is None:
        return f"rank {rank} (never heard)"
    step = "" if row.step is None else f", step {units.count(row.step)}"
    return f"rank {rank} ({row.phase or 'phase untold'}{step})"


def _ranks(ranks: Iterable[int]) -> str:
    numbers = list(ranks)
    verb = "rank" if len(numbers) == 1 else "ranks"
    return f"{verb} {units.rank_ranges(numbers)}"


def _nodes(rows: list[RankRow]) -> str:
    ranks = [row.rank for row in rows if row.rank is not None]
    names = [_ranks(ranks)] if ranks else []
    others = [row.node for row in rows if row.rank is None]
    names += others[:3]
    return ", ".join(names) + (
        f" and {len(others) - 3} more" if len(others) > 3 else ""
    )


def _command(name: str, evidence: Evidence) -> Fix:
    return own_fix(name, shlex.quote(evidence.path))
