"""One chunk store looked into: its rounds, a round's chunks, two rounds compared.

These are reads of the database, not of telemetry: they say what is on disk now,
also of a run that nobody watched. No chunk's bytes are read.
"""

from collections.abc import Sequence

import msgspec

from agent.rundir.chunks.records import ChunkRow, RoundRow
from opsdash import units
from opsdash.operations.diff_rounds import RoundsDiff, TensorChunks
from opsdash.reports.report import Report, cut, table

MAX_CHUNKS = 10_000
_DIGEST_SHOWN = 12
_NAMES_SHOWN = 3


class StoredRound(msgspec.Struct, frozen=True):
    """One round of a store."""

    round_num: int
    created_ns: int
    """Wall clock when it was stored, Unix ns."""
    digest: str
    """Of the round's layout: equal digests mean the same model, bit for bit."""
    num_chunks: int
    num_bytes: int
    new_bytes: int
    """That no earlier round held."""
    shared_bytes: int
    num_tensors: int
    nonfinite: tuple[str, ...]
    """Tensors with a NaN or an infinity."""
    members: tuple[str, ...] | None
    """Whose updates it was made of; None where that has no meaning."""
    has_optimizer: bool


class StoredRoundsReport(Report, frozen=True, kw_only=True):
    """The rounds of one store, oldest first."""

    node: str
    rounds: tuple[StoredRound, ...]


class StoredPart(msgspec.Struct, frozen=True):
    """A range of one tensor inside a chunk."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    """Of the whole tensor."""
    flat_start: int
    """First element, in the contiguous tensor."""
    flat_end: int
    """One past the last element."""


class StoredChunk(msgspec.Struct, frozen=True):
    """One chunk of a round."""

    chunk_id: int
    digest: str
    size_bytes: int
    shared_with: int
    """Other rounds of this node that hold the same bytes."""
    is_missing: bool
    parts: tuple[StoredPart, ...]


class StoredChunksReport(Report, frozen=True, kw_only=True):
    """The first chunks of one round; among these missing ones first."""

    node: str
    round_num: int
    num_chunks: int
    chunks: tuple[StoredChunk, ...]


class ChangedTensor(msgspec.Struct, frozen=True):
    """One tensor in two rounds."""

    name: str
    state: str
    """`same`, `changed`, `added` or `removed`."""
    num_chunks: int
    """Of the newer round, that hold a part of it."""
    num_changed: int
    changed_bytes: int
    """Of those chunks, which may hold parts of other tensors too."""


class RoundsDiffReport(Report, frozen=True, kw_only=True):
    """Which tensors have other chunks in the newer of two rounds."""

    node: str
    old_round: int
    new_round: int
    num_chunks: int
    num_changed: int
    changed_bytes: int
    tensors: tuple[ChangedTensor, ...]


def stored_round(row: RoundRow) -> StoredRound:
    """Return a round as a report has it."""
    return StoredRound(
        round_num=row.round_num,
        created_ns=row.created_ns,
        digest=row.digest,
        num_chunks=row.num_chunks,
        num_bytes=row.num_bytes,
        new_bytes=row.new_bytes,
        shared_bytes=row.shared_bytes,
        num_tensors=row.num_tensors,
        nonfinite=row.nonfinite,
        members=row.members,
        has_optimizer=row.has_optimizer,
    )


def stored_chunks(rows: Sequence[ChunkRow]) -> tuple[StoredChunk, ...]:
    """Return chunks as a report has them: missing ones first, then by id."""
    ordered = sorted(rows, key=lambda row: (not row.is_missing, row.chunk_id))
    return tuple(map(_stored_chunk, ordered))


def changed_tensors(diff: RoundsDiff) -> tuple[ChangedTensor, ...]:
    """Return tensors as a report has them: those that changed most first."""
    ordered = sorted(diff.tensors, key=lambda one: (-one.changed_bytes, one.name))
    return tuple(map(_changed_tensor, ordered))


def render_rounds(report: StoredRoundsReport) -> list[str]:
    """Return the report as lines."""
    rows = [
        (
            units.count(row.round_num),
            units.count(row.num_chunks),
            units.byte_size(row.num_bytes),
            units.byte_size(row.new_bytes),
            units.byte_size(row.shared_bytes),
            row.digest[:_DIGEST_SHOWN],
            _remarks(row),
        )
        for row in report.rounds
    ]
    head = ("round", "chunks", "size", "new", "shared", "digest", "")
    return table(head, rows, right=range(5))


def render_chunks(report: StoredChunksReport) -> list[str]:
    """Return the report as lines."""
    rows = [
        (
            units.count(chunk.chunk_id),
            units.byte_size(chunk.size_bytes),
            units.count(chunk.shared_with),
            "missing" if chunk.is_missing else "",
            chunk.digest[:_DIGEST_SHOWN],
            _parts(chunk),
        )
        for chunk in report.chunks
    ]
    head = ("chunk", "size", "in rounds", "", "digest", "holds")
    lines = table(head, rows, right=range(3))
    more = report.num_chunks - len(report.chunks)
    return [*lines, f"and {units.count(more)} more"] if more > 0 else lines


def render_diff(report: RoundsDiffReport) -> list[str]:
    """Return the report as lines."""
    changed = [one for one in report.tensors if one.state != "same"]
    head = (
        f"{units.count(report.num_changed)} of {units.count(report.num_chunks)} chunks "
        f"and {units.count(len(changed))} of {units.count(len(report.tensors))} "
        f"tensors differ, {units.byte_size(report.changed_bytes)}"
    )
    rows = [
        (
            one.state,
            f"{units.count(one.num_changed)} of {units.count(one.num_chunks)}",
            units.byte_size(one.changed_bytes),
            one.name,
        )
        for one in changed
    ]
    return [head, *table(("", "chunks", "bytes", "tensor"), rows, right=(1, 2))]


def _stored_chunk(row: ChunkRow) -> StoredChunk:
    return StoredChunk(
        chunk_id=row.chunk_id,
        digest=row.digest,
        size_bytes=row.size_bytes,
        shared_with=row.shared_with,
        is_missing=row.is_missing,
        parts=tuple(
            StoredPart(
                part.name, part.dtype, part.shape, part.flat_start, part.flat_end
            )
            for part in row.parts
        ),
    )


def _changed_tensor(one: TensorChunks) -> ChangedTensor:
    return ChangedTensor(
        one.name, one.state, one.num_chunks, one.num_changed, one.changed_bytes
    )


def _remarks(row: StoredRound) -> str:
    remarks = [] if row.members is None else [f"of {', '.join(row.members)}"]
    if row.nonfinite:
        names = ", ".join(row.nonfinite[:_NAMES_SHOWN])
        remarks.insert(0, f"not finite: {names}")
    return "; ".join(remarks)


def _parts(chunk: StoredChunk) -> str:
    shown = [
        f"{part.name}[{part.flat_start}:{part.flat_end}]"
        for part in chunk.parts[:_NAMES_SHOWN]
    ]
    more = len(chunk.parts) - _NAMES_SHOWN
    return cut(", ".join(shown), 60) + (f" and {more} more" if more > 0 else "")
