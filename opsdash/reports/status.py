"""The verdict, the evidence, and the command that helps: `opsdash status`."""

import msgspec

from opsdash import units
from opsdash.projections.checkpoints import CheckpointRow
from opsdash.projections.ranks import RankRow
from opsdash.projections.run import Run
from opsdash.projections.run_state import Reason, State, Verdict
from opsdash.reports.report import Report, cut, fields, table, wrap

_MAX_RANKS = 16
"""Processes in the text; those that are worth a look first."""
_FIX_INDENT = " " * 10


class ReasonReport(msgspec.Struct, frozen=True):
    """One reason."""

    severity: str
    text: str
    fix: str | None
    """A command that helps, or shows more."""
    command: str | None
    """Which of opsdash's own that is; null: somebody else's, or there is none."""


class StragglerReport(msgspec.Struct, frozen=True):
    """Who costs the others most."""

    rank: int
    lost_frac: float
    total_lost_frac: float
    is_persistent: bool
    is_rotating: bool
    since_step: int
    is_costly: bool


class CheckpointBrief(msgspec.Struct, frozen=True):
    """A checkpoint in one line."""

    name: str
    stage: str
    size_bytes: int | None
    digest: str | None
    verified_age_ns: int | None
    why_not: str | None


class RankReport(msgspec.Struct, frozen=True):
    """One process."""

    node: str
    rank: int | None
    phase: str | None
    step: int | None
    seen_age_ns: int
    heartbeat_age_ns: int | None
    progress_age_ns: int | None
    waiting_at: str | None
    ended: str | None
    liveness: str
    host: str | None
    pid: int | None
    rss_bytes: int | None
    cpu_frac: float | None
    gpu_bytes: int | None
    """Reserved by torch."""
    gpu_frac: float | None
    """How busy the busiest GPU is that it uses."""
    net_sent_bytes_per_s: float | None
    """By its whole host, between the last two samples."""
    net_received_bytes_per_s: float | None
    """By its whole host, between the last two samples."""
    agent_bytes: int | None
    """What the agent in it wrote."""
    num_dropped: int
    """Events that its agent could not write."""


class StatusReport(Report, frozen=True, kw_only=True):
    """Is it alive, how far is it, what would be lost."""

    kind: str | None
    """`ddp` or `federated`; null: `run.json` cannot be read."""
    state: str
    """`healthy`, `degraded`, `dead`, `blind` or `finished`."""
    headline: str
    """What the state means here, in words."""
    is_provisional: bool
    """Not watched long enough to be sure."""
    reasons: tuple[ReasonReport, ...]
    """Worst first."""
    attempt: int
    """The newest; 0: none was started."""
    phase: str | None
    """Of rank 0, or the server."""
    step: int | None
    """Optimizer steps completed; of a federated run, rounds committed."""
    loss: float | None
    """Of the newest step, or round."""
    eval_loss: float | None
    """Held-out."""
    accuracy_frac: float | None
    """Of the newest committed round."""
    lr: float | None
    grad_norm: float | None
    tokens_per_s: float | None
    """All ranks together, median of the last steps."""
    step_ns: int | None
    """Median of the last steps, or rounds."""
    agent_ns: int | None
    """What the agent itself costs in a step, median of the last ones."""
    agent_bytes: int | None
    """What the agents of all processes wrote; null: none told."""
    num_dropped: int
    """Events that they could not write."""
    num_skipped: int
    """Steps of this attempt whose gradient was not finite."""
    straggler: StragglerReport | None
    last_verified: CheckpointBrief | None
    """What a resume would take."""
    newest_checkpoint: CheckpointBrief | None
    steps_at_risk: int | None
    """Since the last verified one; of a federation, the open round; null: over."""
    at_risk_ns: int | None
    """What doing them again takes."""
    silence_ns: int | None
    """Since anybody said anything."""
    disk_free_bytes: int | None
    ranks: tuple[RankReport, ...]
    """Processes of the newest attempt: server, ranks, clients."""
    num_undecodable: int
    """Lines that are no events."""
    num_newer: int
    """Events of a kind that a newer version wrote."""
    num_overlong: int
    """Lines too long to be lines."""


def make_status(run: Run, now_mono_ns: int, now_ns: int) -> StatusReport:
    """Return the report of this moment."""
    verdict, now = run.verdict(now_mono_ns, now_ns), run.steps.now()
    ranks = tuple(map(_rank, run.rank_rows(now_mono_ns)))
    wrote = [rank.agent_bytes for rank in ranks if rank.agent_bytes is not None]
    late, last_round = verdict.straggler, run.rounds.newest_committed()
    return StatusReport(
        report="status",
        run=run.directory.path,
        time_ns=now_ns,
        kind=run.kind,
        state=str(verdict.state),
        headline=verdict.headline,
        is_provisional=verdict.is_provisional,
        reasons=tuple(_reason(reason) for reason in verdict.reasons),
        attempt=verdict.attempt,
        phase=verdict.phase,
        step=verdict.step,
        loss=last_round.loss if last_round else now.loss,
        eval_loss=now.eval_loss,
        accuracy_frac=last_round.accuracy_frac if last_round else None,
        lr=now.lr,
        grad_norm=now.grad_norm,
        tokens_per_s=now.tokens_per_s,
        step_ns=run.rounds.typical_ns if last_round else now.step_ns,
        agent_ns=now.agent_ns,
        agent_bytes=sum(wrote) if wrote else None,
        num_dropped=sum(rank.num_dropped for rank in ranks),
        num_skipped=now.num_skipped,
        straggler=(StragglerReport(*late) if late else None),
        last_verified=_brief(verdict.last_verified, now_ns),
        newest_checkpoint=_brief(run.checkpoints.newest(), now_ns),
        steps_at_risk=verdict.steps_at_risk,
        at_risk_ns=verdict.at_risk_ns,
        silence_ns=verdict.silence_ns,
        disk_free_bytes=run.directory.disk_free_bytes,
        ranks=ranks,
        num_undecodable=run.events.num_undecodable,
        num_newer=run.events.num_newer,
        num_overlong=run.events.num_overlong,
    )


def render_status(report: StatusReport) -> list[str]:
    """Return the report as lines: the verdict, the evidence, what to do."""
    lines = [f"{report.state.upper():<10}{report.headline}"]
    lines = [line for text in lines for line in wrap(text, 80)]
    lines += fields([("run", f"{report.run}  attempt {report.attempt}")])
    if report.is_provisional:
        lines += fields([("", "not watched long enough to be sure")])
    lines += _why(report)
    lines += fields([*_progress(report), *_saved(report)])
    lines += ["", *_ranks(report)] if report.ranks else []
    fixes = _fixes(report)
    return [*lines, "", *fixes] if fixes else lines


def verdict_line(verdict: Verdict) -> str:
    """Return a verdict in one line, for a list or a log."""
    return f"{verdict.state}: {verdict.headline}"


def _why(report: StatusReport) -> list[str]:
    """Return the reasons that the headline did not already say."""
    texts = [reason.text for reason in report.reasons if reason.text != report.headline]
    labels = ["why"] + [""] * len(texts)
    return fields(zip(labels, texts, strict=False))


def _progress(report: StatusReport) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    if report.step is not None:
        unit = "round" if report.kind == "federated" else "step"
        parts = [units.count(report.step)]
        if report.loss is not None:
            parts.append(f"loss {units.number(report.loss)}")
        if report.accuracy_frac is not None:
            parts.append(f"accuracy {units.percent(report.accuracy_frac)}")
        if report.eval_loss is not None:
            parts.append(f"held-out {units.number(report.eval_loss)}")
        if report.tokens_per_s is not None:
            parts.append(units.rate(report.tokens_per_s, "tokens"))
        if report.step_ns is not None:
            parts.append(f"{units.duration(report.step_ns)} per {unit}")
        found.append((unit, ", ".join(parts)))
    late = report.straggler
    if late is not None:
        found.append(("slowest", straggler_words(late)))
    return found


def straggler_words(late: StragglerReport) -> str:
    """Return who is slowest and what that costs."""
    lost = units.percent(late.lost_frac)
    if late.is_persistent:
        since = units.count(late.since_step)
        return f"rank {late.rank} costs {lost}, persistent since step {since}"
    total = units.percent(late.total_lost_frac)
    if late.is_rotating:
        return f"changing ranks cost {total}, rank {late.rank} most"
    return f"nobody in particular: {total} is waited, rank {late.rank} most"


def _saved(report: StatusReport) -> list[tuple[str, str]]:
    last, newest = report.last_verified, report.newest_checkpoint
    if report.kind == "federated" and last is None and report.step is not None:
        found = [("saved", f"round {units.count(report.step)} is committed")]
    elif last is None:
        found = [("saved", "no checkpoint that is verified")]
    else:
        age = units.ago(last.verified_age_ns)
        size = units.byte_size(last.size_bytes)
        found = [("saved", f"{last.name}, verified {age}, {size}")]
    if newest is not None and (last is None or newest.name != last.name):
        found.append(("", f"{newest.name}: {newest.stage}, {newest.why_not}"))
    if report.steps_at_risk:
        unit = "round" if report.kind == "federated" else "step"
        unit += "" if report.steps_at_risk == 1 else "s"
        text = f"{units.count(report.steps_at_risk)} {unit}"
        if report.at_risk_ns is not None:
            text += f", {units.duration(report.at_risk_ns)} of work"
        label = "lost" if report.state == State.DEAD else "at risk"
        found.append((label, text))
    return found


def _ranks(report: StatusReport) -> list[str]:
    ordered = sorted(report.ranks, key=_worth_a_look)
    rows = [
        (
            rank.node,
            rank.phase or units.MISSING,
            units.count(rank.step),
            _memory(rank),
            units.ago(rank.seen_age_ns),
            _where(rank),
        )
        for rank in ordered[:_MAX_RANKS]
    ]
    head = ("process", "phase", "step", "memory", "seen", "")
    lines = table(head, rows, right=(2, 3))
    more = len(ordered) - _MAX_RANKS
    return [*lines, f"and {more} more"] if more > 0 else lines


def _fixes(report: StatusReport) -> list[str]:
    """Return the commands that help, the best first, each once and unbroken."""
    commands: dict[str, None] = {}
    if report.state == State.DEAD and report.last_verified is not None:
        commands[f"opsdash resume {report.run}"] = None
    for reason in report.reasons:
        # Of this report itself nobody has to be told.
        if reason.fix and reason.command != "status":
            commands[reason.fix] = None
    return [
        f"{'try' if not n else '':<10}{c}" for n, c in enumerate(list(commands)[:3])
    ]


def _worth_a_look(rank: RankReport) -> tuple[bool, int]:
    is_fine = rank.ended is None and rank.liveness != "dead"
    return is_fine, -(rank.heartbeat_age_ns or 0) // 10**10


def _memory(rank: RankReport) -> str:
    return units.byte_size(rank.rss_bytes)


def _where(rank: RankReport) -> str:
    if rank.ended:
        return f"ended: {rank.ended}"
    if rank.liveness == "dead":
        return f"process {rank.pid} is gone"
    if rank.waiting_at:
        return f"waits at {cut(rank.waiting_at, 30)}"
    return ""


def _reason(reason: Reason) -> ReasonReport:
    text, command = reason.fix or (None, None)
    return ReasonReport(reason.severity.name.lower(), reason.text, text, command)


def _brief(row: CheckpointRow | None, now_ns: int) -> CheckpointBrief | None:
    if row is None:
        return None
    age_ns = max(0, now_ns - row.check.time_ns) if row.check else None
    return CheckpointBrief(
        row.name, row.stage, row.size_bytes, row.digest, age_ns, row.why_not
    )


def _rank(row: RankRow) -> RankReport:
    return RankReport(
        node=row.node,
        rank=row.rank,
        phase=row.phase,
        step=row.step,
        seen_age_ns=row.seen_age_ns,
        heartbeat_age_ns=row.heartbeat_age_ns,
        progress_age_ns=row.progress_age_ns,
        waiting_at=row.waiting_at,
        ended=row.ended,
        liveness=str(row.liveness),
        host=row.host,
        pid=row.pid,
        rss_bytes=row.rss_bytes,
        cpu_frac=row.cpu_frac,
        gpu_bytes=row.gpu_bytes,
        gpu_frac=row.gpu_frac,
        net_sent_bytes_per_s=row.net_sent_per_s,
        net_received_bytes_per_s=row.net_received_per_s,
        agent_bytes=row.agent_bytes,
        num_dropped=row.num_dropped,
    )
