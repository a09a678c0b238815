"""The verdict as one line: state of things, slowest rank, last checkpoint, risk."""

from opsdash import units
from opsdash.projections.run_state import State, Verdict
from opsdash.screens.pane import View


def verdict_text(view: View) -> str:
    """Return everything but the state's own word, most important first."""
    verdict = view.verdict
    parts = [verdict.headline]
    is_running = verdict.state in (State.HEALTHY, State.DEGRADED)
    is_federated = view.run.kind == "federated"
    if verdict.state is State.DEGRADED and verdict.step is not None:
        unit = "round" if is_federated else "step"
        parts.append(f"{unit} {units.count(verdict.step)}")
    straggler = verdict.straggler
    if is_running and straggler is not None and not _is_told(verdict):
        share = units.percent(straggler.lost_frac)
        parts.append(f"slowest: rank {straggler.rank}, costs {share}")
    parts.append(_round(verdict) if is_federated else _checkpoint(verdict))
    if verdict.steps_at_risk and verdict.state is not State.FINISHED:
        parts.append(_risk(verdict, "round" if is_federated else "step"))
    if verdict.state is State.DEAD and (is_federated or verdict.last_verified):
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


def _round(verdict: Verdict) -> str:
    if verdict.step is None:
        return "no round is committed"
    return f"round {units.count(verdict.step)} is committed"


def _risk(verdict: Verdict, unit: str) -> str:
    num = verdict.steps_at_risk or 0
    units_word = unit if num == 1 else f"{unit}s"
    cost = f" ({units.duration(verdict.at_risk_ns)})" if verdict.at_risk_ns else ""
    return f"{units.count(num)} {units_word} at risk{cost}"
