"""Pane 4: loss, norms and what the optimizer holds, over the whole life of the run."""

from typing import ClassVar

from textual.app import ComposeResult
from textual.containers import Container, VerticalScroll

from opsdash import units
from opsdash.projections.optimizer import OptimizerNow
from opsdash.projections.series import Curve
from opsdash.projections.steps import EVAL_LOSS, GRAD_NORM, LOSS, LR
from opsdash.screens.curve_series import CurveSeries
from opsdash.screens.pane import Pane, View
from opsdash.widgets.chart import Chart
from opsdash.widgets.facts import Fact, Facts
from opsdash.widgets.series import Mark, Series

_LETTERS = {"start": "", "resume": "r", "reload": "l", "reset": "x"}
_MAX_STATE_SERIES = 6


class OptimizerPane(Pane):
    """Six charts with one cursor, and the newest sample in numbers."""

    TITLE: ClassVar[str] = "optimizer"
    DEFAULT_CSS = """
    OptimizerPane {
        & > VerticalScroll {
            height: 1fr;
            background: $background;
            scrollbar-size-vertical: 1;
        }
        & Container {
            layout: grid;
            grid-size: 3;
            grid-rows: 1fr;
            grid-gutter: 0 1;
            height: 1fr;
            min-height: 16;
        }
        & Chart { height: 1fr; min-height: 6; }
        & > Facts { height: auto; max-height: 6; border-top: solid $panel; }
    }
    """

    def __init__(self) -> None:
        super().__init__()
        self._curves: dict[str, CurveSeries] = {}

    def compose(self) -> ComposeResult:
        """Lay out the charts and the sample."""
        with VerticalScroll(can_focus=False), Container():
            yield Chart(title="loss", id="loss")
            yield Chart(title="gradient norm", id="grad")
            yield Chart(title="update / parameter", id="ratio")
            yield Chart(title="optimizer state", id="state")
            yield Chart(title="learning rate", id="lr")
            yield Chart(title="parameter norm", id="param")
        yield Facts()

    def show(self, view: View) -> None:
        """Show the run as it is now."""
        steps, optimizer = view.run.steps, view.run.optimizer
        loss = [self._follow(n, n, steps.curve(n)) for n in (LOSS, EVAL_LOSS)]
        self._chart("loss").show(loss[0], *(s for s in loss[1:] if len(s)))
        grad = self._follow("steps.grad", "every step", steps.curve(GRAD_NORM))
        sampled = self._follow("grad", "sampled", optimizer.curve("grad"))
        self._chart("grad").show(*([grad] if len(grad) else [sampled]))
        self._chart("lr").show(self._follow(LR, LR, steps.curve(LR)))
        for name, chart in (("update_ratio", "ratio"), ("param", "param")):
            self._chart(chart).show(self._follow(name, name, optimizer.curve(name)))
        self._chart("state").show(*self._state_series(view))
        self._show_marks(view)
        self.query_one(Facts).show(_facts(view))

    def on_chart_cursor_moved(self, event: Chart.CursorMoved) -> None:
        """Inspect the same step in every chart."""
        for chart in self.query(Chart):
            chart.cursor_x = event.x

    def _chart(self, name: str) -> Chart:
        return self.query_one(f"#{name}", Chart)

    def _follow(self, key: str, name: str, curve: Curve) -> Series:
        found = self._curves.setdefault(key, CurveSeries(name))
        return found.follow(curve)

    def _state_series(self, view: View) -> list[Series]:
        optimizer = view.run.optimizer
        names = [n for n in optimizer.curves.names if n.startswith("state.")]
        return [
            self._follow(name, name.removeprefix("state."), optimizer.curve(name))
            for name in names[:_MAX_STATE_SERIES]
        ]

    def _show_marks(self, view: View) -> None:
        marks = [
            Mark(mark.step, _LETTERS.get(mark.kind, ""), f"{mark.kind} {mark.text}")
            for mark in view.run.optimizer.marks
            if _LETTERS.get(mark.kind)
        ]
        for chart in self.query(Chart):
            chart.show_marks(marks)


def _facts(view: View) -> list[Fact]:
    samples = view.run.optimizer.now()
    if not samples:
        return [Fact("norms", "no optimizer was sampled yet", "dim")]
    return [_sample(sample) for sample in samples[:4]]


def _sample(sample: OptimizerNow) -> Fact:
    if sample.nonfinite:
        names = ", ".join(sample.nonfinite)
        return Fact(sample.node, f"not finite at step {sample.step}: {names}", "bad")
    state = ", ".join(f"{k} {units.number(v)}" for k, v in sample.state.items())
    steps = sample.state_steps
    counter = ""
    if steps is not None:
        counter = f", its step {units.count(steps[0])}"
        if steps[0] != steps[1]:
            counter += f" to {units.count(steps[1])}"
    cost = units.duration(sample.probe_ns)
    text = f"{sample.optimizer} at step {units.count(sample.step)}{counter}: {state}"
    return Fact(sample.node, f"{text} (measured in {cost})")
