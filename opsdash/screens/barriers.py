"""Pane 2: who is in, who is missing, for how long; and who is always late."""

import contextlib
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.message import Message

from agent.rundir.layout import rank_stem
from opsdash import units
from opsdash.messages import RunRequested, StacksOpened, StepOpened
from opsdash.projections.barriers import BoardRow
from opsdash.projections.lateness import Blame
from opsdash.projections.reasons import wait_limit_ns
from opsdash.projections.steps import LOSS
from opsdash.screens.hang_facts import HangFacts
from opsdash.screens.late_heat import BOUNDS_NS, LatenessHeat
from opsdash.screens.pane import Pane, View, may_act
from opsdash.screens.stack_words import is_over
from opsdash.widgets.barrier_board import BarrierBoard, OpenBarrier
from opsdash.widgets.facts import Fact, Facts
from opsdash.widgets.heat_map import HeatMap
from opsdash.widgets.record_table import Field, RecordTable
from opsdash.widgets.rows import Cell, Column
from opsdash.widgets.table_messages import Selected

_SHOWN_AFTER_NS = 500_000_000
"""A wait shorter than this is how training goes, and would only flicker."""
_COSTLY_FRAC = 0.1
_NO_BARRIERS = Fact(
    "empty", "clients of a federation wait at no barrier: 6 shows who was late"
)

_BLAME: tuple[Field[Blame], ...] = (
    Field(Column("rank", 8), lambda row: Cell(f"rank {row.rank}"), lambda r: r.rank),
    Field(
        Column("cost now", 9, align_right=True),
        lambda row: Cell(units.percent(row.window_frac), _tone(row.window_frac)),
        lambda row: row.window_frac or 0.0,
    ),
    Field(
        Column("cost", 8, align_right=True),
        lambda row: Cell(units.percent(row.lost_frac)),
        lambda row: row.lost_ns,
    ),
    Field(
        Column("rank-seconds", 13, align_right=True),
        lambda row: Cell(f"{row.lost_rank_ns / 1e9:,.1f}"),
        lambda row: row.lost_rank_ns,
    ),
    Field(
        Column("last", 8, align_right=True),
        lambda row: Cell(f"{units.count(row.num_last)} x"),
        lambda row: row.num_last,
    ),
    Field(
        Column("worst", 9, align_right=True),
        lambda row: Cell(units.duration(row.worst_ns), "dim"),
        lambda row: row.worst_ns,
    ),
    Field(
        Column("mean", 9, align_right=True),
        lambda row: Cell(units.duration(int(row.mean_ns)), "dim"),
        lambda row: row.mean_ns,
    ),
    Field(Column("", 1, flex=1), lambda _: Cell(""), None),
)


class BarriersPane(Pane):
    """The arrival board, a hang in full, the heat of lateness, what each rank cost."""

    DEFAULT_CSS = """
    BarriersPane {
        & > BarrierBoard { height: auto; max-height: 10; }
        & > #empty { margin: 1 2; }
        & > #hang { height: auto; max-height: 12; }
        & > HeatMap { height: 2fr; min-height: 4; margin: 1 0 0 0; }
        & > RecordTable { height: 1fr; min-height: 4; }
    }
    """

    BINDINGS: ClassVar[list[BindingType]] = [Binding("K", "take_stacks", "Take stacks")]

    class Answered(Message):
        """Stacks that were asked for were read."""

        def can_replace(self, message: Message) -> bool:
            """One look takes all answers."""
            return isinstance(message, BarriersPane.Answered)

    def __init__(self) -> None:
        super().__init__()
        self._hang = HangFacts(self._answered)
        self._view: View | None = None
        self._is_hung = False

    def compose(self) -> ComposeResult:
        """Lay out board, hang, heat and blame."""
        yield BarrierBoard()
        yield Facts(id="hang")
        yield HeatMap(
            BOUNDS_NS,
            title="lateness",
            say=lambda ns: units.duration(int(ns)),
        )
        yield Facts(id="empty")
        yield RecordTable(
            _BLAME,
            key=lambda row: row.rank,
            empty="no barrier was passed by all ranks yet",
            sort=("cost", True),
        )

    def on_unmount(self) -> None:
        """Read nothing more."""
        self._hang.stop()

    def show(self, view: View) -> None:
        """Show the run as it is now."""
        self._view = view
        is_federated = view.run.kind == "federated"
        for part in self.children:
            part.display = (part.id == "empty") is is_federated
        self.query_one("#empty", Facts).show([_NO_BARRIERS])
        if not is_federated:
            self._show_waits(view)

    def _show_waits(self, view: View) -> None:
        rows = view.run.board(view.now_mono_ns)
        step_ns = view.run.evidence(view.now_mono_ns, view.now_ns).step_ns
        waits = [
            _open(row, step_ns) for row in rows if row.waited_ns >= _SHOWN_AFTER_NS
        ]
        self._hang.look(view)
        self._show_hang(view)
        self.query_one(BarrierBoard).show(
            waits, _newest_lateness(view), others_stand=self._is_hung
        )
        heat = LatenessHeat(view.run.lateness.heat, _first_step(view))
        self.query_one(HeatMap).show(heat)
        self.query_one(RecordTable).show(view.run.lateness.blame())

    def _show_hang(self, view: View) -> None:
        hang = self._hang.facts(view, may_act=may_act(self.app))
        self.query_one("#hang", Facts).show(hang)
        self.query_one("#hang").display = self._is_hung = bool(hang)

    def offers(self, action: str) -> bool:
        """Leave stacks to a hang that somebody can still be asked about."""
        is_theirs = action == "take_stacks"
        return not is_theirs or (self._is_hung and not is_over(self._view))

    def action_take_stacks(self) -> None:
        """Show what asking every process for its stacks would do."""
        self.post_message(RunRequested("stacks", {}))

    def focus_first(self) -> None:
        """The heat map is what is looked into."""
        if self.query_one(HeatMap).display:
            self.focus_now(self.query_one(HeatMap))

    @property
    def has_filter(self) -> bool:
        """The ranks, where there are any."""
        return bool(self.query_one(RecordTable).display)

    def filter_rows(self) -> bool:
        """Begin to type a filter of the ranks."""
        if self.has_filter:
            self.query_one(RecordTable).filter_rows()
        return self.has_filter

    def on_barriers_pane_answered(self) -> None:
        """Show what was read."""
        if self._hang.take() and self._view is not None:
            self._show_hang(self._view)

    def on_heat_map_cell_selected(self, event: HeatMap.CellSelected) -> None:
        """Go from a hot cell to what happened then."""
        self.post_message(StepOpened(event.step, event.rank))

    def on_virtual_table_selected(self, event: Selected) -> None:
        """Show the stacks of the rank under the cursor."""
        if isinstance(event.key, int):
            self.post_message(StacksOpened(rank_stem(event.key)))

    def _answered(self) -> None:
        """Say so from the reading thread; there may be no loop to hear it any more."""
        with contextlib.suppress(RuntimeError):
            self.post_message(self.Answered())


def _open(row: BoardRow, step_ns: int | None) -> OpenBarrier:
    return OpenBarrier(
        name=row.name,
        arrived=[w.rank for w in row.arrived if w.rank is not None],
        missing=row.missing,
        waited_ns=row.waited_ns,
        limit_ns=wait_limit_ns(row, step_ns),
    )


def _first_step(view: View) -> int:
    """Return the first step of the joined history."""
    spans = view.run.steps.curve(LOSS).joined
    return spans[0].series.steps[spans[0].start] if spans else 0


def _newest_lateness(view: View) -> list[int | None]:
    """Return each rank's lateness at the newest step that all have reported."""
    heat = view.run.lateness.heat.window(1)
    if not heat.ranks:
        return []
    found: list[int | None] = [None] * (max(heat.ranks) + 1)
    for rank, cells in zip(heat.ranks, heat.cells, strict=True):
        if cells and cells[0] is not None:
            found[rank] = int(cells[0])
    return found


def _tone(frac: float | None) -> str:
    return "warn" if (frac or 0.0) > _COSTLY_FRAC else ""
