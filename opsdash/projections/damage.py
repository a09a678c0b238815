"""What lies damaged on the disk, in words, while the run goes on without it.

A newest checkpoint that is damaged degrades the run; older ones, and chunk
stores, are what a resume or a restore would miss one day, and are not hidden.
"""

import shlex
from collections.abc import Iterator

from agent.rundir.operations import Operation
from opsdash.projections.event_words import Severity
from opsdash.projections.plausible import clip
from opsdash.projections.run_state import Evidence, Reason, own_fix

_MAX_TOLD = 3


def damage_notes(evidence: Evidence) -> Iterator[Reason]:
    """Return older checkpoints, and stores, that were found damaged."""
    path = shlex.quote(evidence.path)
    older = [row for row in evidence.damaged if row != evidence.newest]
    for row in older[:_MAX_TOLD]:
        what = found_first(row.why_not or "untold")
        text = f"{row.directory} is damaged, and passed over: {what}"
        yield Reason(Severity.INFO, text, own_fix("checkpoints", path))
    for found in _bad_stores(evidence.batch.directory.operations)[:_MAX_TOLD]:
        node = clip((found.subject or "").partition("/")[2], 64)
        what = f"{clip(found.state or '', 40)}: {clip(found.text)}"
        text = f"the chunk store of {node} was found {what}"
        fix = own_fix("chunks", f"{path} --node {shlex.quote(node)} --repair")
        yield Reason(Severity.INFO, f"{text} (by {clip(found.by, 80)})", fix)


def found_first(why: str) -> str:
    """Return what was found first; the pane of checkpoints has it with all figures."""
    by, found, what = why.partition(" found it damaged: ")
    text = f"{what} (found by {by})" if found else why
    figures = text.find(" (expected ")
    end = text.find(")", figures) + 1
    return text if figures < 0 or not end else text[:figures] + text[end:]


def _bad_stores(operations: tuple[Operation, ...]) -> list[Operation]:
    """Return the newest verification of each store that was not sound, nor mended."""
    newest: dict[str, Operation] = {}
    for one in operations:
        is_about_it = one.kind in ("verify", "repair") and one.stage == "done"
        if is_about_it and one.subject and one.subject.startswith("chunks/"):
            newest[one.subject] = one
    return [one for one in newest.values() if one.state not in (None, "sound")]
