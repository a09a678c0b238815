"""The processes of the newest attempt as rows of a table."""

from opsdash import units
from opsdash.projections.ranks import RankRow
from opsdash.projections.run_state import STALE_NS
from opsdash.screens.pane import View
from opsdash.widgets.rows import Cell, Column, FixedRows

COLUMNS = (
    Column("who", 8, sortable=False),
    Column("phase", 10, sortable=False),
    Column("step", 8, align_right=True, sortable=False),
    Column("late", 7, align_right=True, sortable=False),
    Column("cpu", 6, align_right=True, sortable=False),
    Column("memory", 9, align_right=True, sortable=False),
    Column("seen", 9, align_right=True, sortable=False),
    Column("at", 12, flex=1, sortable=False),
)


def rank_rows(view: View) -> FixedRows:
    """Return a row per process; what is wrong with one is said in words."""
    shares = {
        blame.rank: blame.window_frac
        for blame in view.run.lateness.blame()
        if blame.window_frac is not None
    }
    return FixedRows(
        (row.stem, _cells(row, shares.get(-1 if row.rank is None else row.rank)))
        for row in view.run.rank_rows(view.now_mono_ns)
    )


def _cells(row: RankRow, lost_frac: float | None) -> tuple[Cell, ...]:
    is_late = lost_frac is not None and lost_frac > 0.1
    is_silent = row.ended is None and row.seen_age_ns > STALE_NS
    return (
        Cell(row.node),
        Cell(row.ended or row.phase or "-", _ended_tone(row)),
        Cell(units.count(row.step)),
        Cell(units.percent(lost_frac), "warn" if is_late else "dim"),
        Cell(units.percent(row.cpu_frac), "dim"),
        Cell(units.byte_size(row.gpu_bytes or row.rss_bytes), "dim"),
        Cell(
            "-" if row.ended else units.ago(row.seen_age_ns),
            "bad" if is_silent else "dim",
        ),
        Cell(*_where(row)),
    )


def _ended_tone(row: RankRow) -> str:
    if row.ended is None:
        return ""
    return "bad" if row.ended == "error" else "accent"


def _where(row: RankRow) -> tuple[str, str]:
    if row.ended:
        return (row.error or "", "bad" if row.error else "dim")
    if row.waiting_at is None:
        return ("", "")
    return (f"{row.waiting_at} {units.duration(row.waiting_age_ns)}", "dim")
