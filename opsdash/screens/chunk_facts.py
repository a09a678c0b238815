"""What is known of a store, a round, a chunk or two rounds, in words."""

from agent.rundir.chunks.records import ChunkRow
from agent.rundir.verify.verdict import Verdict
from opsdash import units
from opsdash.operations.diff_rounds import RoundsDiff
from opsdash.operations.targets import describe_finding
from opsdash.screens.chunk_rows import ChunkRows
from opsdash.screens.pane import View
from opsdash.screens.store_fields import Kept, bad_digests, done_before, verdict_of
from opsdash.widgets.facts import Fact

_MAX_FINDINGS = 8


def store_facts(view: View, node: str) -> list[Fact]:
    """Return what was found wrong in a store, and what its owner told."""
    verdict = verdict_of(view.stores, node)
    facts = _findings(verdict)
    told = [damage for damage in view.run.chunks.damages() if damage.store == node]
    facts += [
        Fact(
            f"chunk {damage.chunk}",
            f"{damage.reason}{', repaired' if damage.is_repaired else ''}",
            "dim" if damage.is_repaired else "bad",
        )
        for damage in told[:_MAX_FINDINGS]
    ]
    if verdict is not None and not facts:
        size = units.byte_size(verdict.num_bytes)
        took = units.duration(verdict.elapsed_ns)
        facts.append(Fact("read", f"{size} in {took}: {verdict.state}", "ok"))
    done = done_before(view).get(node)
    if verdict is None and done is not None and done.state not in (None, "sound"):
        when = units.ago(view.now_ns - done.time_ns)
        facts.append(Fact("found", f"{done.text} ({when}, by {done.by})", "bad"))
    return facts or [Fact("store", "nothing wrong was told; v reads it again", "dim")]


def round_facts(kept: Kept) -> list[Fact]:
    """Return what a round is."""
    row = kept.row
    members = ", ".join(row.members) if row.members is not None else "does not apply"
    facts = [
        Fact("digest", row.digest, "dim"),
        Fact("members", members or "none"),
        Fact("cut", f"{units.count(row.num_tensors)} tensors by {row.split}", "dim"),
    ]
    if row.has_nonfinite:
        facts.append(Fact("not finite", ", ".join(row.nonfinite), "bad"))
    return facts


def chunk_facts(
    chunk: ChunkRow, rows: ChunkRows, verdict: Verdict | None
) -> list[Fact]:
    """Return what a chunk is, and what was found wrong with it."""
    state, tone = rows.state(chunk)
    facts = [Fact("digest", chunk.digest, "dim")]
    if chunk.shared_with:
        text = f"{units.count(chunk.shared_with)} other rounds hold the same bytes"
        facts.append(Fact("shared", text))
    if state:
        facts.append(Fact("state", state, tone))
    if verdict is not None and chunk.digest in bad_digests(verdict):
        found = [one for one in verdict.findings if one.expected == chunk.digest]
        facts += [Fact("found", describe_finding(one), "bad") for one in found]
    return facts


def diff_facts(diff: RoundsDiff) -> list[Fact]:
    """Return how much two rounds have in common."""
    changed = units.count(diff.num_changed)
    total = units.count(diff.num_chunks)
    share = units.percent(diff.num_changed / diff.num_chunks if diff.num_chunks else 0)
    size = units.byte_size(diff.changed_bytes)
    text = f"{changed} of {total} chunks ({share}), {size} that the older lacks"
    return [Fact("changed", text)]


def _findings(verdict: Verdict | None) -> list[Fact]:
    findings = verdict.findings if verdict else ()
    facts = [
        Fact("found", describe_finding(one), "bad") for one in findings[:_MAX_FINDINGS]
    ]
    more = len(findings) - _MAX_FINDINGS
    return facts + ([Fact("", f"and {more} more")] if more > 0 else [])
