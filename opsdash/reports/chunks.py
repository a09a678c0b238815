"""The chunk stores of a federated run: `opsdash chunks`.

What a store holds is read from it where it is on this host; how its newest
round was put is what its owner told.
"""

from pathlib import Path

import msgspec

from agent.rundir.errors import RunDirError
from agent.rundir.layout import RunDir, is_safe_node
from opsdash import units
from opsdash.projections.chunks import empty_row
from opsdash.projections.run import Run
from opsdash.reports.report import WIDTH, Report, table, wrap

_MAX_ROWS = 40


class StoreReport(msgspec.Struct, frozen=True):
    """One node's store."""

    node: str
    round_num: int | None
    """The newest."""
    num_rounds: int | None
    num_chunks: int | None
    """Distinct ones."""
    new_chunks: int | None
    new_bytes: int | None
    shared_bytes: int | None
    file_bytes: int | None
    put_ns: int | None
    num_failed: int
    last_error: str | None
    num_damaged: int
    why_unread: str | None = None
    """Why the store could not be looked into; None: it was, or it is elsewhere."""


class DamageReport(msgspec.Struct, frozen=True):
    """A chunk that was found damaged."""

    store: str
    chunk: int
    digest: str
    reason: str
    is_repaired: bool


class ChunksReport(Report, frozen=True, kw_only=True):
    """Stores, damaged ones first."""

    why_empty: str | None
    stores: tuple[StoreReport, ...]
    damages: tuple[DamageReport, ...]


def make_chunks(run: Run, now_mono_ns: int, now_ns: int) -> ChunksReport:  # noqa: ARG001 - one signature for all reports
    """Return the report of this moment."""
    told = {row.node: row for row in run.chunks.rows()}
    told |= {n: empty_row(n) for n in run.directory.stores if n not in told}
    directory = RunDir(Path(run.directory.path))
    return ChunksReport(
        report="chunks",
        run=run.directory.path,
        time_ns=now_ns,
        why_empty=None if told else run.chunks.why_empty(run.kind),
        stores=tuple(_as_it_is(directory, StoreReport(*row)) for row in told.values()),
        damages=tuple(DamageReport(*damage) for damage in run.chunks.damages()),
    )


def _as_it_is(run: RunDir, store: StoreReport) -> StoreReport:
    """Return a store with what it holds now, in place of what was told."""
    from opsdash.operations.store_now import stored_now  # noqa: PLC0415 - SQLite, which no other pane needs

    path = run.chunk_store(store.node) if is_safe_node(store.node) else Path()
    if not path.is_file():
        return store
    try:
        now = stored_now(path)
    except RunDirError as error:
        return msgspec.structs.replace(store, why_unread=str(error))
    return msgspec.structs.replace(store, **now._asdict())


def render_chunks(report: ChunksReport) -> list[str]:
    """Return the report as lines."""
    if report.why_empty is not None:
        return wrap(report.why_empty, WIDTH)
    rows = [
        (
            store.node,
            units.count(store.round_num),
            units.count(store.num_rounds),
            units.count(store.num_chunks),
            units.byte_size(store.new_bytes),
            units.byte_size(store.file_bytes),
            _state(store),
        )
        for store in report.stores[:_MAX_ROWS]
    ]
    head = ("store", "round", "rounds", "chunks", "new", "file", "")
    lines = table(head, rows, right=range(1, 6))
    for store in report.stores[:_MAX_ROWS]:
        if store.why_unread is not None:
            lines += wrap(f"{store.node}: {store.why_unread}", WIDTH)
    damages = [damage for damage in report.damages if not damage.is_repaired]
    for damage in damages[:10]:
        lines.append(f"{damage.store}: chunk {damage.chunk}: {damage.reason}")
    return lines


def _state(store: StoreReport) -> str:
    if store.why_unread is not None:
        return "cannot be read now"
    if store.num_damaged:
        return f"{units.count(store.num_damaged)} chunks damaged"
    if store.num_failed:
        return f"{units.count(store.num_failed)} rounds not stored: {store.last_error}"
    return ""
