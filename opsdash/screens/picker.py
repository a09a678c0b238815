"""The runs below a directory, each with its verdict; one is chosen to be watched."""

from pathlib import Path
from typing import Any, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType

from opsdash import units
from opsdash.feed.runs import RunsFeed, RunSummary
from opsdash.messages import RunChosen
from opsdash.widgets.key_line import KeyLine
from opsdash.widgets.lines import LineWidget
from opsdash.widgets.record_table import Field, RecordTable
from opsdash.widgets.rows import Cell, Column
from opsdash.widgets.spans import Line, Span
from opsdash.widgets.table_messages import Selected
from opsdash.widgets.thin_screen import ThinScreen
from opsdash.widgets.verdict import STATE_TONES

_LOOKS_PER_S = 2
_ORDER = ("dead", "degraded", "blind", "healthy", "finished")


class _Heading(LineWidget):
    def __init__(self, root: Path) -> None:
        super().__init__()
        self._root = root
        self._num_runs = 0

    def show(self, num_runs: int) -> None:
        self._num_runs = num_runs
        self.changed()

    def lines(self, width: int, height: int) -> list[Line]:  # noqa: ARG002 - one line
        runs = "run" if self._num_runs == 1 else "runs"
        found = f"{units.count(self._num_runs)} {runs} below "
        return [(Span(found, "title"), Span(str(self._root)))]


class PickerScreen(ThinScreen[None]):
    """A table of runs that is kept up while it is looked at."""

    DEFAULT_CSS = """
    PickerScreen {
        overflow: hidden;
        background: $background;
    }
    """
    AUTO_FOCUS = "VirtualTable"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "leave", "Back"),
        Binding("slash", "filter", "Filter"),
    ]

    def __init__(self, root: Path, *, is_first: bool) -> None:
        """List runs below `root`; the first screen has none to go back to."""
        super().__init__()
        self._feed = RunsFeed(root)
        self._is_first = is_first
        self._paths: dict[str, Path] = {}

    def compose(self) -> ComposeResult:
        """Lay out the table."""
        yield _Heading(self._feed.root)
        yield RecordTable(
            self._fields(),
            key=lambda row: str(row.path),
            empty="no run was found yet, looking on",
        )
        yield KeyLine()

    def on_mount(self) -> None:
        """Begin to look."""
        self._feed.start()
        self.set_interval(1 / _LOOKS_PER_S, self.show_now)

    def on_unmount(self) -> None:
        """Stop looking."""
        self._feed.stop()

    def check_action(
        self,
        action: str,
        parameters: tuple[object, ...],  # noqa: ARG002 - Textual's signature
    ) -> bool | None:
        """The first screen has none behind it."""
        return not (action == "leave" and self._is_first)

    def show_now(self) -> None:
        """Show what is known of the runs."""
        rows = self._feed.rows
        self._paths = {str(row.path): row.path for row in rows}
        self.query_one(_Heading).show(len(rows))
        self._table.show(rows)

    def action_leave(self) -> None:
        """Go back to the run that is watched."""
        self.dismiss()

    def action_filter(self) -> None:
        """Begin to type a filter."""
        self._table.filter_rows()

    def on_virtual_table_selected(self, event: Selected) -> None:
        """Watch the run."""
        path = self._paths.get(str(event.key))
        if path is not None:
            self.post_message(RunChosen(path))

    @property
    def _table(self) -> "RecordTable[RunSummary]":
        return self.query_one(RecordTable)

    def _fields(self) -> "list[Field[RunSummary]]":
        root = self._feed.root

        def name(row: RunSummary) -> str:
            return str(row.path.relative_to(root))

        return [
            Field(Column("run", 16, flex=1), lambda row: Cell(name(row)), name),
            Field(Column("kind", 9), lambda row: Cell(row.kind or "-", "dim"), _kind),
            Field(Column("state", 9), _state, _rank),
            Field(
                Column("step", 9, align_right=True),
                lambda row: Cell(
                    units.count(row.verdict.step if row.verdict else None)
                ),
                lambda row: (row.verdict.step or 0) if row.verdict else -1,
            ),
            Field(
                Column("at risk", 8, align_right=True),
                lambda row: Cell(_at_risk(row), "dim"),
                lambda row: (row.verdict.steps_at_risk or 0) if row.verdict else -1,
            ),
            Field(
                Column("what", 20, flex=2),
                _headline,
                lambda row: _headline(row).text,
            ),
        ]


def _kind(row: RunSummary) -> str:
    return row.kind or ""


def _state(row: RunSummary) -> Cell:
    if row.trouble:
        return Cell("unread", "bad")
    if row.verdict is None or row.verdict.is_provisional:
        return Cell("reading", "dim")
    state = str(row.verdict.state)
    return Cell(state, STATE_TONES.get(state, "").replace("blind", "warn"))


def _rank(row: RunSummary) -> Any:  # noqa: ANN401 - whatever sorts
    state = str(row.verdict.state) if row.verdict else "blind" if row.trouble else ""
    return _ORDER.index(state) if state in _ORDER else len(_ORDER)


def _at_risk(row: RunSummary) -> str:
    return units.count(row.verdict.steps_at_risk if row.verdict else None)


def _headline(row: RunSummary) -> Cell:
    if row.trouble:
        return Cell(row.trouble, "bad")
    if row.verdict is None:
        return Cell("")
    if row.verdict.is_provisional:
        return Cell("its history is being read", "dim")
    return Cell(row.verdict.headline)
