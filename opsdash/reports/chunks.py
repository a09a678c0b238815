"""The chunk stores of a federated run: `opsdash chunks`."""

import msgspec

from opsdash import units
from opsdash.projections.run import Run
from opsdash.reports.report import WIDTH, Report, table, wrap

_MAX_ROWS = 40


class StoreReport(msgspec.Struct, frozen=True):
    """One node's store after its newest round."""

    node: str
    round_num: int | None
    num_rounds: int | None
    num_chunks: int | None
    new_chunks: int | None
    new_bytes: int | None
    shared_bytes: int | None
    file_bytes: int | None
    put_ns: int | None
    num_failed: int
    last_error: str | None
    num_damaged: int


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
    return ChunksReport(
        report="chunks",
        run=run.directory.path,
        time_ns=now_ns,
        why_empty=run.chunks.why_empty(run.kind),
        stores=tuple(StoreReport(*row) for row in run.chunks.rows()),
        damages=tuple(DamageReport(*damage) for damage in run.chunks.damages()),
    )


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
    damages = [damage for damage in report.damages if not damage.is_repaired]
    for damage in damages[:10]:
        lines.append(f"{damage.store}: chunk {damage.chunk}: {damage.reason}")
    return lines


def _state(store: StoreReport) -> str:
    if store.num_damaged:
        return f"{units.count(store.num_damaged)} chunks damaged"
    if store.num_failed:
        return f"{units.count(store.num_failed)} rounds not stored: {store.last_error}"
    return ""
