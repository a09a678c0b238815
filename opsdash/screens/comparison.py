"""Two checkpoints beside each other: which tensors changed, and how much."""

from typing import Any, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen

from opsdash import units
from opsdash.operations.compare import (
    CHANGED,
    SAME,
    UNTOLD,
    Comparison,
    Measure,
    TensorChange,
    read_measures,
)
from opsdash.operations.trainer_command import TrainerCommand
from opsdash.widgets.facts import Fact, Facts
from opsdash.widgets.key_line import KeyLine
from opsdash.widgets.record_table import Field, RecordTable
from opsdash.widgets.rows import Cell, Column

_LOOKS_PER_S = 4
_TONES = {SAME: "dim", CHANGED: "", UNTOLD: "dim"}
_ORDER = ("reshaped", "removed", "added", "changed", "untold", "same")


class ComparisonScreen(ModalScreen[None]):
    """A table of tensors; distances come while it is looked at."""

    DEFAULT_CSS = """
    ComparisonScreen {
        align: center middle;
        & > Vertical {
            width: 96%;
            height: 90%;
            border: solid $primary;
            background: $background;
        }
        & Facts { height: auto; }
    }
    """
    AUTO_FOCUS = "VirtualTable"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q", "dismiss", "Close"),
        Binding("slash", "filter", "Filter"),
        Binding("question_mark", "app.help", "Help"),
    ]

    def __init__(self, comparison: Comparison, measuring: TrainerCommand) -> None:
        """Show what is known, and what `measuring` finds as it comes."""
        super().__init__()
        self._comparison = comparison
        self._measuring = measuring
        self._measures: dict[str, Measure] = {}

    def compose(self) -> ComposeResult:
        """Lay out the summary and the tensors."""
        with Vertical(classes="boxed"):
            yield Facts()
            yield RecordTable(
                self._fields(),
                key=lambda change: change.name,
                empty="the manifests name no tensors",
                sort=("state", False),
            )
            yield KeyLine(lambda action: action != "select")

    def on_mount(self) -> None:
        """Show what is known and look for more."""
        self.show_now()
        self.set_interval(1 / _LOOKS_PER_S, self.show_now)

    def on_unmount(self) -> None:
        """Nobody wants to know any more."""
        if not self._measuring.is_done:
            self._measuring.cancel()

    def show_now(self) -> None:
        """Show what is known now."""
        self._measures = read_measures(self._measuring.results)
        self.query_one(Facts).show(self._facts())
        self.query_one(RecordTable).show(self._comparison.changes)

    def action_filter(self) -> None:
        """Begin to type a filter."""
        self.query_one(RecordTable).filter_rows()

    def _facts(self) -> list[Fact]:
        compared = self._comparison
        counts = [
            f"{units.count(compared.num(state))} {state}"
            for state in _ORDER
            if compared.num(state)
        ]
        return [
            Fact("compared", f"{compared.old} with {compared.new}", "strong"),
            Fact("tensors", ", ".join(counts) or "none"),
            Fact("distances", *self._progress()),
        ]

    def _progress(self) -> tuple[str, str]:
        measuring = self._measuring
        if not measuring.is_done:
            if not measuring.total_bytes:
                return ("a process with torch loads both", "dim")
            return (units.percent(measuring.done_bytes / measuring.total_bytes), "")
        if measuring.error:
            return (measuring.error, "bad")
        known = self._measures.values()
        squares = [m.distance**2 for m in known if m.distance is not None]
        return (f"{units.number(sum(squares) ** 0.5)} over all tensors", "")

    def _fields(self) -> "list[Field[TensorChange]]":
        return [
            Field(
                Column("tensor", 24, flex=2),
                lambda change: Cell(change.name),
                lambda change: change.name,
            ),
            Field(
                Column("state", 9),
                lambda change: Cell(change.state, _TONES.get(change.state, "warn")),
                lambda change: _ORDER.index(change.state),
            ),
            Field(
                Column("what", 16, flex=1),
                lambda change: Cell(change.what, "dim"),
                lambda change: change.what,
            ),
            *(self._measured(name, title) for name, title in _MEASURES),
        ]

    def _measured(self, name: str, title: str) -> "Field[TensorChange]":
        def value(change: TensorChange) -> float | None:
            measure = self._measures.get(change.name)
            found: float | None = getattr(measure, name) if measure else None
            return found

        def order(change: TensorChange) -> Any:  # noqa: ANN401 - whatever sorts
            found = value(change)
            return -1.0 if found is None else found

        return Field(
            Column(title, 9, align_right=True),
            lambda change: Cell(units.number(value(change))),
            order,
        )


_MEASURES = (("old_norm", "was"), ("new_norm", "is"), ("distance", "distance"))
