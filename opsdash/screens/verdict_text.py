"""The verdict as one line: state of things, slowest rank, last checkpoint, risk."""

from opsdash import units
from opsdash.projections.run_state import State, Verdict


def verdict_text(verdict: Verdict) -> str:
    """Return everything but the state's own word, most important first."""
    parts = [verdict.headline]
    is_running = verdict.state in (State.HEALTHY, State.DEGRADED)
    if verdict.state is State.DEGRADED and verdict.step is not None:
        parts.append(f"step {units.count(verdict.step)}")
    straggler = verdict.straggler
    if is_running and straggler is not None and not _is_told(verdict):
        share = units.percent(straggler.lost_frac)
        parts.append(f"slowest: rank {straggler.rank}, costs {share}")
    parts.append(_checkpoint(verdict))
    if verdict.steps_at_risk and verdict.state is not State.FINISHED:
        parts.append(_risk(verdict))
    if verdict.state is State.DEAD and verdict.last_verified is not None:
        parts.append("r resumes")
    if verdict.is_provisional:
        parts.append("still reading")
    return ". ".join(parts)


def _is_told(verdict: Verdict) -> bool:
    return "rank" in verdict.headline and "cost" in verdict.headline


def _checkpoint(verdict: Verdict) -> str:
    row = verdict.last_verified
    if row is None:
        return "no verified checkpoint"
    return f"{row.name} verified {units.ago(verdict.verified_age_ns)}"


def _risk(verdict: Verdict) -> str:
    cost = f" ({units.duration(verdict.at_risk_ns)})" if verdict.at_risk_ns else ""
    return f"{units.count(verdict.steps_at_risk)} steps at risk{cost}"
