"""Chart: several series over steps, with one cursor that screens keep in step.

The owner adds to the series and calls `changed`; `cursor_x` is set from
outside to follow another chart, and `CursorMoved` is posted only when the
operator moved it here, so charts that follow each other cannot loop.
"""

from collections.abc import Sequence
from typing import ClassVar

from textual import events
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.reactive import reactive

from opsdash.glyphs import Glyphs, glyphs_of
from opsdash.widgets.axes import StepAxis, step_label
from opsdash.widgets.frame import legend, step_labels, value_labels
from opsdash.widgets.lines import LineWidget
from opsdash.widgets.plot import SMOOTHING, Plot
from opsdash.widgets.series import Mark, Series
from opsdash.widgets.spans import Line, Span

_TALL = 9
"""From this height on a line of cells goes to the horizontal axis."""
_NARROW = 12
"""Below this width the labels of the values go."""


class Chart(LineWidget, can_focus=True):
    """Smoothed lines over the band between lowest and highest value."""

    DEFAULT_CSS = """
    Chart {
        height: 1fr;
        & > .tone--band { color: $text-muted 60%; }
        & > .tone--mark { color: $text-secondary; }
        & > .tone--inspected { text-style: bold; }
        & > .tone--series-1 { color: $text-primary; }
        & > .tone--series-2 { color: $text-warning; }
        & > .tone--series-3 { color: $text-secondary; }
        & > .tone--series-4 { color: $text-success; }
        & > .tone--series-5 { color: $text-accent; }
        & > .tone--series-6 { color: $text-error; }
        &:ansi > .tone--band { color: ansi_default; text-style: dim; }
    }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("left,h", "inspect(-1)", "Earlier", show=False),
        Binding("right,l", "inspect(1)", "Later", show=False),
        Binding("shift+left", "inspect(-10)", "Much earlier", show=False),
        Binding("shift+right", "inspect(10)", "Much later", show=False),
        Binding("home,g", "inspect_end(True)", "First", show=False),
        Binding("end,G", "inspect_end(False)", "Last", show=False),
        Binding("escape", "clear_cursor", "Clear cursor", show=False),
        Binding("y", "toggle_log", "Log y"),
    ]

    log_y = reactive(default=False, repaint=False)
    """Whether heights are logarithmic; values that are not positive lie below."""
    cursor_x: reactive[float | None] = reactive[float | None](None, repaint=False)
    """The inspected step; the legend shows the values there."""

    class CursorMoved(Message):
        """The operator inspects another step, or none."""

        def __init__(self, chart: "Chart", x: float | None) -> None:
            super().__init__()
            self.chart = chart
            self.x = x

        @property
        def control(self) -> "Chart":
            """The chart, for `@on` selectors."""
            return self.chart

        def can_replace(self, message: Message) -> bool:
            """Only where the cursor is now matters to a slow screen."""
            return isinstance(message, Chart.CursorMoved) and (
                message.chart is self.chart
            )

    def __init__(
        self,
        *series: Series,
        title: str = "",
        window: float | None = None,
        smoothing: float = SMOOTHING,
        id: str | None = None,  # noqa: A002 - Textual's name for it
        classes: str | None = None,
    ) -> None:
        """Make a chart of `series`; `window` keeps to that many last steps.

        `smoothing`: the share of a new column in the line; 1.0 for values that are
        set and not measured.
        """
        super().__init__(id=id, classes=classes)
        self.series: tuple[Series, ...] = series
        self.heading = title
        self.window = window
        self.smoothing = smoothing
        self._marks: tuple[Mark, ...] = ()
        self._steps: StepAxis | None = None
        self._label_width = 0

    def show(self, *series: Series) -> None:
        """Replace the series."""
        self.series = series
        self.changed()

    def show_marks(self, marks: Sequence[Mark]) -> None:
        """Replace the marks; the last of several in one column is drawn."""
        self._marks = tuple(marks)
        self.changed()

    def lines(self, width: int, height: int) -> list[Line]:
        """Return legend, plot and axis, as much as there is room for."""
        glyphs = glyphs_of(self.app)
        legend = self._legend(width, glyphs)
        floors = 2 if height >= _TALL else 1
        plot_height = height - 1 - floors
        span = self._span()
        if span is None or plot_height < 1 or width < 4:
            self._steps = None
            empty = () if span else ((Span("no values yet", "dim"),),)
            return [legend, *empty]
        return [legend, *self._plotted(width, plot_height, span, floors, glyphs)]

    def action_inspect(self, cells: int) -> None:
        """Move the cursor to the next point, at least `cells` cells away."""
        steps = self._steps
        if steps is None:
            return
        per_cell = 1 if glyphs_of(self.app).ascii_only else 2
        x = self.cursor_x
        if x is None:
            self.action_inspect_end(first=False)
            return
        cell = steps.column(x) // per_cell
        if cells < 0:
            edge = steps.edge((cell + cells + 1) * per_cell)
            found = [one.step_before(edge) for one in self.series]
            self._inspect(max((x for x in found if x is not None), default=x))
        else:
            edge = steps.edge((cell + cells) * per_cell)
            found = [one.step_from(edge) for one in self.series]
            self._inspect(min((x for x in found if x is not None), default=x))

    def action_inspect_end(self, first: bool) -> None:  # noqa: FBT001 - an action
        """Move the cursor to the first or the last step."""
        if span := self._span():
            self._inspect(span[0] if first else span[1])

    def action_clear_cursor(self) -> None:
        """Show the newest values again."""
        self._inspect(None)

    def action_toggle_log(self) -> None:
        """Switch between linear and logarithmic heights."""
        self.log_y = not self.log_y

    def on_click(self, event: events.Click) -> None:
        """Inspect the step under the mouse."""
        if self._steps is None or event.x < self._label_width:
            return
        per_cell = 1 if glyphs_of(self.app).ascii_only else 2
        edge = self._steps.edge((event.x - self._label_width + 1) * per_cell)
        found = [one.step_before(edge) for one in self.series]
        self._inspect(max((x for x in found if x is not None), default=None))

    def watch_log_y(self) -> None:
        """Draw anew."""
        self.changed()

    def watch_cursor_x(self) -> None:
        """Draw anew."""
        self.changed()

    def _inspect(self, x: float | None) -> None:
        if x != self.cursor_x:
            self.cursor_x = x
            self.post_message(self.CursorMoved(self, x))

    def _span(self) -> tuple[float, float] | None:
        spans = [span for one in self.series if (span := one.span)]
        if not spans:
            return None
        return min(first for first, _ in spans), max(last for _, last in spans)

    def _legend(self, width: int, glyphs: Glyphs) -> Line:
        x = self.cursor_x
        if x is None:
            note = Span("log", "dim") if self.log_y else Span("")
        else:
            here = [m.text for m in self._marks if m.text and self._is_at(m.x, x)]
            note = Span(" ".join([f"at {step_label(x)}", *here]), "strong")
        return legend(self.heading, self.series, x, note, glyphs, width)

    def _is_at(self, x: float, other: float) -> bool:
        steps = self._steps
        return steps is not None and steps.column(x) // 2 == steps.column(other) // 2

    def _plotted(
        self,
        width: int,
        height: int,
        span: tuple[float, float],
        floors: int,
        glyphs: Glyphs,
    ) -> list[Line]:
        # The labels need the value axis, which needs the columns, whose number
        # depends on the room that the labels leave: so their room is fixed.
        margin = 7 if width >= 40 else 6 if width >= _NARROW else 0
        cells = width - margin
        plot = self._plot_of(cells, height, span, glyphs)
        self._steps, self._label_width = plot.steps, margin
        columns = plot.columns()
        axis = plot.value_axis(columns)
        if axis is None:
            return [(Span("no finite value yet", "dim"),)]
        rows = plot.rows(columns, axis)
        if margin:
            rows = [
                (Span(label, "dim"), *row)
                for label, row in zip(
                    value_labels(axis, height, margin, glyphs), rows, strict=True
                )
            ]
        corner = glyphs.corner.rjust(margin) if margin else ""
        floor = (Span(corner + glyphs.floor * cells, "dim"),)
        ticks = step_labels(plot.steps, cells, 1 if glyphs.ascii_only else 2)
        labels = (Span(" " * margin + ticks, "dim"),)
        return [*rows, *([floor] if floors == 2 else []), labels]

    def _plot_of(
        self, cells: int, height: int, span: tuple[float, float], glyphs: Glyphs
    ) -> Plot:
        num_columns = cells if glyphs.ascii_only else 2 * cells
        return Plot(
            series=self.series,
            steps=StepAxis.over(*span, num_columns, self.window),
            width=cells,
            height=height,
            log=self.log_y,
            glyphs=glyphs,
            marks=self._marks,
            cursor_x=self.cursor_x,
            smoothing=self.smoothing,
        )
