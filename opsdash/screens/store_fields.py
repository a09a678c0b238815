"""How stores, rounds, parts of a chunk and changed tensors are set in tables."""

from collections.abc import Mapping
from typing import NamedTuple

from agent.rundir.chunks.records import Part, RoundRow
from agent.rundir.operations import Operation
from agent.rundir.verify.verdict import State, Verdict
from opsdash import units
from opsdash.operations.diff_rounds import TensorChunks
from opsdash.operations.store_now import StoredNow
from opsdash.projections.chunks import StoreRow
from opsdash.screens.pane import View
from opsdash.widgets.record_table import Field
from opsdash.widgets.rows import Cell, Column

_PLACE = "chunks/"
"""Below it stores lie, and what is done to one is written down by it."""
_CHANGE_TONES = {"same": "dim", "changed": "", "added": "warn", "removed": "warn"}


class Store(NamedTuple):
    """One node's store: what it told, and what was read of it."""

    node: str
    told: StoreRow | None
    verdict: Verdict | None
    """Of a verification in this dashboard; None: there was none."""
    checked: str
    """What an earlier dashboard found, in words; empty: nothing."""
    now: StoredNow | None = None
    """What it holds; None: not looked at yet, or it cannot be."""
    why_unread: str = ""
    """Why it cannot be looked into; empty: it can, or it is not known."""

    @property
    def num_damaged(self) -> int:
        """Chunks that were told, or found, to be wrong; a file that is none counts."""
        told = self.told.num_damaged if self.told else 0
        found = len(self.verdict.findings) if self.verdict else 0
        return max(told, found, bool(self.why_unread))


def _figure(name: str) -> "Field[Store]":
    def value(store: Store) -> int | None:
        # What was told is of before the newest prune.
        source = store.now if hasattr(store.now, name) else store.told
        found: int | None = getattr(source, name) if source else None
        return found

    is_size = name.endswith("_bytes")
    say = units.byte_size if is_size else units.count
    return Field(
        Column(_TITLES[name], 8 if is_size else 6, align_right=True),
        lambda store: Cell(say(value(store))),
        lambda store: value(store) or 0,
    )


_TITLES = {
    "round_num": "round",
    "num_rounds": "kept",
    "num_chunks": "chunks",
    "new_bytes": "new",
    "shared_bytes": "shared",
    "file_bytes": "file",
}

STORES: tuple[Field[Store], ...] = (
    Field(
        Column("node", 10, flex=1),
        lambda store: Cell(store.node),
        lambda store: store.node,
    ),
    Field(
        Column("state", 12, flex=2),
        lambda store: Cell(*store_state(store)),
        lambda store: -store.num_damaged,
    ),
    *map(_figure, _TITLES),
    Field(
        Column("put in", 7, align_right=True),
        lambda store: Cell(units.duration(store.told.put_ns if store.told else None)),
        lambda store: (store.told.put_ns or 0) if store.told else 0,
    ),
)


def store_state(store: Store) -> tuple[str, str]:
    """Return what is known of a store's bytes, and the tone of that."""
    if store.verdict is not None and store.verdict.state is not State.SOUND:
        num = len(store.verdict.findings)
        found = f"{units.count(num)} finding{'' if num == 1 else 's'}"
        return (f"{store.verdict.state}: {found}", "bad")
    if store.verdict is not None:
        return ("sound, just read", "ok")
    if store.why_unread:
        return (f"cannot be read: {store.why_unread}", "bad")
    told = store.told
    if told is not None and told.num_damaged:
        chunks = "chunk" if told.num_damaged == 1 else "chunks"
        return (f"{units.count(told.num_damaged)} {chunks} damaged", "bad")
    if told is not None and told.num_failed:
        failed = units.count(told.num_failed)
        return (f"{failed} rounds not stored: {told.last_error}", "bad")
    return (store.checked or "v reads it", "dim")


class Kept(NamedTuple):
    """One round in a store."""

    row: RoundRow
    age_ns: int
    num_bad: int
    """Findings of a verification that name it."""


ROUNDS: tuple[Field[Kept], ...] = (
    Field(
        Column("round", 8, align_right=True),
        lambda kept: Cell(units.count(kept.row.round_num)),
        lambda kept: kept.row.round_num,
    ),
    Field(
        Column("state", 14, flex=1),
        lambda kept: Cell(*_round_state(kept)),
        lambda kept: -kept.num_bad,
    ),
    Field(
        Column("stored", 11, align_right=True),
        lambda kept: Cell(units.ago(kept.age_ns), "dim"),
        lambda kept: kept.age_ns,
    ),
    Field(
        Column("chunks", 8, align_right=True),
        lambda kept: Cell(units.count(kept.row.num_chunks)),
        lambda kept: kept.row.num_chunks,
    ),
    Field(
        Column("size", 9, align_right=True),
        lambda kept: Cell(units.byte_size(kept.row.num_bytes)),
        lambda kept: kept.row.num_bytes,
    ),
    Field(
        Column("new", 9, align_right=True),
        lambda kept: Cell(units.byte_size(kept.row.new_bytes)),
        lambda kept: kept.row.new_bytes,
    ),
    Field(
        Column("shared", 9, align_right=True),
        lambda kept: Cell(units.byte_size(kept.row.shared_bytes)),
        lambda kept: kept.row.shared_bytes,
    ),
    Field(
        Column("members", 12, flex=1),
        lambda kept: Cell(", ".join(kept.row.members or ()) or "-", "dim"),
        lambda kept: len(kept.row.members or ()),
    ),
)


def _round_state(kept: Kept) -> tuple[str, str]:
    if kept.num_bad:
        return (f"{units.count(kept.num_bad)} chunks bad", "bad")
    if kept.row.has_nonfinite:
        return (f"not finite: {', '.join(kept.row.nonfinite[:2])}", "bad")
    return ("with optimizer" if kept.row.has_optimizer else "", "dim")


PARTS: tuple[Field[Part], ...] = (
    Field(Column("tensor", 24, flex=2), lambda part: Cell(part.name), lambda p: p.name),
    Field(Column("dtype", 10), lambda part: Cell(part.dtype), lambda p: p.dtype),
    Field(
        Column("shape", 14, flex=1),
        lambda part: Cell(" x ".join(map(str, part.shape)) or "scalar"),
        lambda part: part.shape,
    ),
    Field(
        Column("from", 12, align_right=True),
        lambda part: Cell(units.count(part.flat_start)),
        lambda part: part.flat_start,
    ),
    Field(
        Column("to", 12, align_right=True),
        lambda part: Cell(units.count(part.flat_end)),
        lambda part: part.flat_end,
    ),
    Field(
        Column("elements", 12, align_right=True),
        lambda part: Cell(units.count(part.flat_end - part.flat_start)),
        lambda part: part.flat_end - part.flat_start,
    ),
)

DIFF: tuple[Field[TensorChunks], ...] = (
    Field(Column("tensor", 24, flex=2), lambda one: Cell(one.name), lambda o: o.name),
    Field(
        Column("state", 9),
        lambda one: Cell(one.state, _CHANGE_TONES.get(one.state, "")),
        lambda one: one.state,
    ),
    Field(
        Column("chunks changed", 15, align_right=True),
        lambda one: Cell(f"{units.count(one.num_changed)} of {one.num_chunks:,}"),
        lambda one: one.num_changed,
    ),
    Field(
        Column("bytes", 9, align_right=True),
        lambda one: Cell(units.byte_size(one.changed_bytes)),
        lambda one: one.changed_bytes,
    ),
    Field(
        Column("what", 16, flex=1),
        lambda one: Cell(one.what, "dim"),
        lambda one: one.what,
    ),
)


def bad_digests(verdict: Verdict | None) -> frozenset[str]:
    """Return the digests of the chunks that a verification found wrong."""
    findings = verdict.findings if verdict else ()
    return frozenset(found.expected for found in findings if found.expected)


def verdict_of(verdicts: Mapping[str, Verdict], node: str) -> Verdict | None:
    """Return what a verification of a node's store found here."""
    return verdicts.get(f"{_PLACE}{node}")


def num_findings(verdict: Verdict | None, row: RoundRow) -> int:
    """Return how many findings of a verification name a round."""
    word = f"round {row.round_num} "
    findings = verdict.findings if verdict else ()
    return sum(word in f"{found.message} " for found in findings)


def done_before(view: View) -> dict[str, Operation]:
    """Return the newest verification or repair of each store from any dashboard."""
    found = {}
    for operation in view.run.directory.operations:
        is_it = operation.kind in ("verify", "repair") and operation.stage == "done"
        subject = operation.subject or ""
        # A checkpoint is verified by its bare name, which may be that of a node.
        if is_it and subject.startswith(_PLACE):
            found[subject.removeprefix(_PLACE)] = operation
    return found


def say_done(done: Operation | None, now_ns: int) -> str:
    """Return what that found, in words; empty: there was none."""
    if done is None:
        return ""
    found = "repaired" if done.kind == "repair" else done.state or "read"
    return f"{found} {units.ago(now_ns - done.time_ns)}"
