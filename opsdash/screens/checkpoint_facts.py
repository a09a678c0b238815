"""All that is known of one checkpoint, in words."""

from opsdash import units
from opsdash.projections.checkpoints import CheckpointRow
from opsdash.screens.pane import View
from opsdash.widgets.facts import Fact


def checkpoint_facts(row: CheckpointRow, view: View) -> list[Fact]:
    """Return whether it resumes, what it is, and how it came to be."""
    facts = [
        Fact("resumable", *resumable(row)),
        Fact("digest", row.digest or "none: no manifest could be read", "dim"),
    ]
    if row.check is not None:
        found = f": {row.check.text}" if row.check.text else ""
        text = f"{row.check.state} ({row.check.level}) {checked(row, view)} by"
        tone = "ok" if row.check.state == "sound" else "bad"
        facts.append(Fact("checked", f"{text} {row.check.by}{found}", tone))
    if row.attempt is not None:
        why = f", saved for `{row.reason}`" if row.reason else ""
        when = f", {units.ago(view.now_ns - row.created_ns)}" if row.created_ns else ""
        facts.append(Fact("attempt", f"{row.attempt}{why}{when}"))
    if row.save_ns is not None:
        facts.append(Fact("save", _phases(row)))
    if row.loaded_in:
        attempts = ", ".join(map(str, row.loaded_in))
        facts.append(Fact("loaded", f"by attempt {attempts}"))
    if row.is_pinned:
        facts.append(Fact("pinned", "retention never removes it"))
    return facts


def checked(row: CheckpointRow, view: View) -> str:
    """Return when its bytes were read back last."""
    return units.ago(view.now_ns - row.check.time_ns) if row.check else "never"


def resumable(row: CheckpointRow) -> tuple[str, str]:
    """Return whether it can be resumed from, or why not, and the tone of that."""
    if row.why_not is None:
        return ("yes", "ok")
    return (f"no: {row.why_not}", "warn" if row.is_published else "dim")


def _phases(row: CheckpointRow) -> str:
    phases = (*row.save_phases, ("read back", row.verify_ns))
    told = [f"{name} {units.duration(ns)}" for name, ns in phases if ns is not None]
    waited = units.duration(row.save_ns)
    return f"{', '.join(told)}; training waited {waited} for the disk"
