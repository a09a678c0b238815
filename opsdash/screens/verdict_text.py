"""The verdict as one line: state of things, slowest rank, last checkpoint, risk."""

from opsdash import units
from opsdash.projections.run_state import State, Verdict
from opsdash.screens.pane import View

_KEYS = {
    "status": "1 shows who",
    "barriers": "2 shows where",
    "checkpoints": "3 shows it",
    "verify": "3 shows it, v reads it again",
    "optimizer": "4 shows it",
    "chunks": "5 shows it",
    "rounds": "6 shows since when",
    "events": "7 tells more",
}
"""The key beside the command that helps."""


def verdict_text(view: View) -> str:
    """Return everything but the state's own word, most important first."""
    verdict = view.verdict
    parts = [f"{verdict.headline}{_key(verdict)}"]
    is_federated = view.run.kind == "federated"
    if verdict.state is State.DEGRADED and verdict.step is not None:
        unit = "round" if is_federated else "step"
        is_training = verdict.phase in (None, "training")
        doing = "" if is_training else f"{verdict.phase} at "
        if doing or not is_federated:  # of rounds, what is committed is said below
            parts.append(f"{doing}{unit} {units.count(verdict.step)}")
    straggler = verdict.straggler
    if verdict.state is State.HEALTHY and straggler is not None:
        share = units.percent(straggler.lost_frac)
        parts.append(f"slowest: rank {straggler.rank}, costs {share}")
    if not is_federated:
        parts.append(_checkpoint(verdict))
    elif not verdict.headline.endswith(_at_round(verdict)):
        parts.append(_round(verdict))
    if verdict.steps_at_risk:
        parts.append(_risk(verdict, "round" if is_federated else "step"))
    if verdict.state is State.DEAD and (is_federated or verdict.last_verified):
        parts.append("r resumes")
    if verdict.is_provisional:
        parts.append("still reading")
    return _joined(parts)


def _joined(parts: list[str]) -> str:
    """Return sentences as one text; what was cut short has its dots already."""
    text = parts[0]
    for part in parts[1:]:
        text += f" {part}" if text.endswith("...") else f". {part}"
    return text


def _key(verdict: Verdict) -> str:
    """Return which key shows the evidence of what degrades the run."""
    if verdict.state is not State.DEGRADED or not verdict.reasons:
        return ""
    fix = verdict.reasons[0].fix
    key = _KEYS.get(fix.command or "") if fix is not None else None
    return f" ({key})" if key else ""


def _checkpoint(verdict: Verdict) -> str:
    row = verdict.last_verified
    if row is None:
        return "no verified checkpoint"
    return f"{row.name} verified {units.ago(verdict.verified_age_ns)}"


def _at_round(verdict: Verdict) -> str:
    return f"at round {units.count(verdict.step)}"


def _round(verdict: Verdict) -> str:
    if verdict.step is None:
        return "no round is committed"
    return f"round {units.count(verdict.step)} is committed"


def _risk(verdict: Verdict, unit: str) -> str:
    num = verdict.steps_at_risk or 0
    units_word = unit if num == 1 else f"{unit}s"
    cost = f" ({units.duration(verdict.at_risk_ns)})" if verdict.at_risk_ns else ""
    word = "lost" if verdict.state is State.DEAD else "at risk"
    return f"{units.count(num)} {units_word} {word}{cost}"
