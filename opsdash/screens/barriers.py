"""Pane 2: who is in, who is missing, for how long; and who is always late."""

from collections.abc import Callable
from typing import ClassVar

from textual.app import ComposeResult

from opsdash import units
from opsdash.messages import StepOpened
from opsdash.projections.barriers import BoardRow
from opsdash.projections.lateness import Blame
from opsdash.projections.steps import LOSS
from opsdash.screens.late_heat import BOUNDS_NS, ZOOMS, LatenessHeat
from opsdash.screens.pane import Pane, View
from opsdash.widgets.barrier_board import BarrierBoard, OpenBarrier
from opsdash.widgets.heat_map import HeatMap
from opsdash.widgets.rows import Cell, Column, FixedRows
from opsdash.widgets.table import VirtualTable
from opsdash.widgets.table_messages import SortRequested

_SHOWN_AFTER_NS = 500_000_000
"""A wait shorter than this is how training goes, and would only flicker."""

_COLUMNS = (
    Column("rank", 8),
    Column("cost now", 9, align_right=True, key="window"),
    Column("cost", 8, align_right=True, key="lost"),
    Column("rank-seconds", 13, align_right=True, key="seconds"),
    Column("last", 8, align_right=True),
    Column("worst", 9, align_right=True),
    Column("mean", 9, align_right=True),
    Column("", 1, flex=1, sortable=False),
)
_ORDERS: dict[str, Callable[[Blame], float]] = {
    "rank": lambda row: row.rank,
    "window": lambda row: row.window_frac or 0.0,
    "lost": lambda row: row.lost_ns,
    "seconds": lambda row: row.lost_rank_ns,
    "last": lambda row: row.num_last,
    "worst": lambda row: row.worst_ns,
    "mean": lambda row: row.mean_ns,
}


class BarriersPane(Pane):
    """The arrival board, the heat of lateness, and what each rank cost."""

    TITLE: ClassVar[str] = "barriers"
    DEFAULT_CSS = """
    BarriersPane {
        & > BarrierBoard { height: auto; max-height: 10; }
        & > HeatMap { height: 2fr; margin: 1 0 0 0; }
        & > VirtualTable { height: 1fr; min-height: 4; }
    }
    """

    def __init__(self) -> None:
        super().__init__()
        self._order = ("lost", True)
        self._view: View | None = None

    def compose(self) -> ComposeResult:
        """Lay out board, heat and blame."""
        yield BarrierBoard()
        yield HeatMap(
            BOUNDS_NS,
            title="lateness",
            say=lambda ns: units.duration(int(ns)),
            zooms=ZOOMS,
        )
        yield VirtualTable(_COLUMNS, empty="no barrier was passed by all ranks yet")

    def show(self, view: View) -> None:
        """Show the run as it is now."""
        self._view = view
        rows = view.run.board(view.now_mono_ns)
        waits = [_open(row) for row in rows if _is_worth_showing(row)]
        self.query_one(BarrierBoard).show(waits, _mean_lateness(view))
        first = view.run.steps.curve(LOSS).points()[:1]
        heat = LatenessHeat(view.run.lateness.heat, first[0][0] if first else 0)
        self.query_one(HeatMap).show(heat)
        self._show_blame(view)

    def focus_first(self) -> None:
        """The heat map is what is looked into."""
        self.focus_now(self.query_one(HeatMap))

    def on_heat_map_cell_selected(self, event: HeatMap.CellSelected) -> None:
        """Go from a hot cell to what happened then."""
        self.post_message(StepOpened(event.step, event.rank))

    def on_virtual_table_sort_requested(self, event: SortRequested) -> None:
        """Put the ranks in another order."""
        self._order = (event.column, event.descending)
        if self._view is not None:
            self._show_blame(self._view)

    def _show_blame(self, view: View) -> None:
        column, descending = self._order
        rows = sorted(
            view.run.lateness.blame(), key=_ORDERS[column], reverse=descending
        )
        self.query_one(VirtualTable).show(
            FixedRows((row.rank, _cells(row)) for row in rows), sort=self._order
        )


def _is_worth_showing(row: BoardRow) -> bool:
    return row.waited_ns >= _SHOWN_AFTER_NS


def _open(row: BoardRow) -> OpenBarrier:
    return OpenBarrier(
        name=row.name,
        arrived=[w.rank for w in row.arrived if w.rank is not None],
        missing=row.missing,
        waited_ns=row.waited_ns,
        limit_ns=row.limit_ns,
    )


def _mean_lateness(view: View) -> list[int | None]:
    """Return each rank's lateness at the newest step that all have reported."""
    heat = view.run.lateness.heat.window(1)
    if not heat.ranks:
        return []
    found: list[int | None] = [None] * (max(heat.ranks) + 1)
    for rank, cells in zip(heat.ranks, heat.cells, strict=True):
        if cells and cells[0] is not None:
            found[rank] = int(cells[0])
    return found


def _cells(row: Blame) -> tuple[Cell, ...]:
    is_costly = (row.window_frac or 0.0) > 0.1
    return (
        Cell(f"rank {row.rank}"),
        Cell(units.percent(row.window_frac), "warn" if is_costly else ""),
        Cell(units.percent(row.lost_frac)),
        Cell(f"{row.lost_rank_ns / 1e9:,.1f}"),
        Cell(f"{units.count(row.num_last)} x"),
        Cell(units.duration(row.worst_ns), "dim"),
        Cell(units.duration(int(row.mean_ns)), "dim"),
    )
