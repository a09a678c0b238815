"""Pane 4: loss, norms and what the optimizer holds, over the whole life of the run.

All parameters together at first; a parameter group, or in a federation a
client, is chosen by a key. What was not finite is named with its step.
"""

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container, VerticalScroll

from opsdash import units
from opsdash.projections.optimizer import Optimizer, OptimizerNow
from opsdash.projections.series import Curve
from opsdash.projections.steps import EVAL_LOSS, GRAD_NORM, LOSS, LR
from opsdash.screens.curve_series import CurveSeries
from opsdash.screens.pane import Pane, View
from opsdash.widgets.chart import Chart
from opsdash.widgets.facts import Fact, Facts
from opsdash.widgets.series import Mark, Series

_LETTERS = {"start": "", "resume": "r", "reload": "l", "reset": "x"}
_MAX_STATE_SERIES = 6
_MAX_NONFINITE = 3


class OptimizerPane(Pane):
    """Six charts with one cursor, and the newest sample in numbers."""

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
            min-height: 15;
        }
        & Chart { height: 1fr; min-height: 5; }
        & > Facts { height: auto; max-height: 6; border-top: solid $panel; }
    }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("u", "next_group", "Next group"),
        Binding("n", "next_node", "Next client", show=False),
    ]

    def __init__(self) -> None:
        super().__init__()
        self._curves: dict[str, CurveSeries] = {}
        self._view: View | None = None
        self._group = ""
        """Name of the group in front of a curve's: `group0.`; empty: all."""
        self._node = ""
        """A client and a slash in front of that; empty: the ranks together."""

    def compose(self) -> ComposeResult:
        """Lay out the charts and the sample."""
        with VerticalScroll(can_focus=False), Container():
            yield Chart(title="loss", id="loss")
            yield Chart(title="gradient norm", id="grad")
            yield Chart(title="update / parameter", id="ratio")
            yield Chart(title="optimizer state", id="state")
            yield Chart(title="learning rate", smoothing=1.0, id="lr")
            yield Chart(title="parameter norm", id="param")
        yield Facts()

    def show(self, view: View) -> None:
        """Show the run as it is now."""
        self._view = view
        steps, optimizer = view.run.steps, view.run.optimizer
        if not self._node:
            self._node = next(iter(_nodes(optimizer)), "")
        prefix = self._node + self._group
        loss = [self._follow(n, n, steps.curve(n)) for n in (LOSS, EVAL_LOSS)]
        self._chart("loss").show(loss[0], *(s for s in loss[1:] if len(s)))
        self._show_gradient(view, prefix)
        self._show_rate(view, prefix)
        for name, chart in (("update_ratio", "ratio"), ("param", "param")):
            key = prefix + name
            drawn = self._follow(key, name, optimizer.curve(key))
            self._chart(chart).show(drawn)
        self._chart("state").show(*self._state_series(optimizer, prefix))
        self._show_marks(view)
        self.query_one(Facts).show(self._facts(view))

    def action_next_group(self) -> None:
        """Show the next parameter group; after the last, all together."""
        if self._view is not None:
            groups = ["", *_groups(self._view.run.optimizer, self._node)]
            self._group = _after(groups, self._group)
            self.show(self._view)

    def action_next_node(self) -> None:
        """Show the next client's optimizer."""
        if self._view is not None:
            nodes = _nodes(self._view.run.optimizer)
            self._node = _after(nodes, self._node) if nodes else ""
            self.show(self._view)

    def on_chart_cursor_moved(self, event: Chart.CursorMoved) -> None:
        """Inspect the same step in every chart."""
        for chart in self.query(Chart):
            chart.cursor_x = event.x

    def _chart(self, name: str) -> Chart:
        return self.query_one(f"#{name}", Chart)

    def _follow(self, key: str, name: str, curve: Curve) -> Series:
        found = self._curves.setdefault(key, CurveSeries(name))
        return found.follow(curve)

    def _show_gradient(self, view: View, prefix: str) -> None:
        """Show every step's norm where it is that of all, else the samples."""
        every = view.run.steps.curve(GRAD_NORM)
        if not prefix and every.last() is not None:
            drawn = self._follow("steps.grad", "every step", every)
        else:
            sampled = view.run.optimizer.curve(f"{prefix}grad")
            drawn = self._follow(f"{prefix}grad", "sampled", sampled)
        self._chart("grad").show(drawn)

    def _show_rate(self, view: View, prefix: str) -> None:
        key = f"{prefix}lr" if self._group else LR
        source = view.run.optimizer if self._group else view.run.steps
        self._chart("lr").show(self._follow(key, LR, source.curve(key)))

    def _state_series(self, optimizer: Optimizer, prefix: str) -> list[Series]:
        start = f"{prefix}state."
        names = [n for n in optimizer.curves.names if n.startswith(start)]
        return [
            self._follow(name, name.removeprefix(start), optimizer.curve(name))
            for name in names[:_MAX_STATE_SERIES]
        ]

    def _show_marks(self, view: View) -> None:
        marks = [
            Mark(mark.step, _LETTERS.get(mark.kind, ""), f"{mark.kind} {mark.text}")
            for mark in view.run.optimizer.marks
            if _LETTERS.get(mark.kind) and self._node in ("", f"{mark.node}/")
        ]
        for chart in self.query(Chart):
            chart.show_marks(marks)

    def _facts(self, view: View) -> list[Fact]:
        optimizer = view.run.optimizer
        facts = []
        if self._group or self._node:
            shown = [self._node.rstrip("/"), self._group.rstrip(".")]
            facts.append(Fact("shown", ", ".join(filter(None, shown)), "strong"))
        facts += [
            Fact("not finite", f"{tensor} at step {units.count(step)}", "bad")
            for _, step, tensor in list(optimizer.nonfinite)[-_MAX_NONFINITE:][::-1]
        ]
        samples = optimizer.now()
        if not samples:
            return [*facts, Fact("norms", "no optimizer was sampled yet", "dim")]
        mine = self._node.rstrip("/")
        samples = [one for one in samples if one.node == mine] or samples
        facts += [_sample(sample) for sample in samples[:4]]
        if optimizer.resets:
            reset = optimizer.resets[-1]
            text = f"{reset.node}: {reset.optimizer} cleared: {reset.reason}"
            facts.append(Fact("reset", text, "warn"))
        return facts


def _nodes(optimizer: Optimizer) -> list[str]:
    """Return the clients that have curves, each with its slash."""
    names = optimizer.curves.names
    return sorted({f"{n.partition('/')[0]}/" for n in names if "/" in n})


def _groups(optimizer: Optimizer, node: str) -> list[str]:
    """Return the parameter groups that have curves, each with its dot."""
    found = {
        name.removeprefix(node).partition(".")[0]
        for name in optimizer.curves.names
        if name.startswith(f"{node}group")
    }
    return [f"{group}." for group in sorted(found, key=lambda g: (len(g), g))]


def _after(names: list[str], here: str) -> str:
    place = names.index(here) + 1 if here in names else 0
    return names[place % len(names)]


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
