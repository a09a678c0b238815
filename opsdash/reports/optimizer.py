"""Norms, their last values and what broke their flow: `opsdash optimizer`."""

import math

import msgspec

from opsdash import units
from opsdash.projections.optimizer import Mark, OptimizerNow
from opsdash.projections.run import Run
from opsdash.projections.series import Curve
from opsdash.reports.report import Report, table

_MAX_ROWS = 40
_MAX_POINTS = 200
"""Of each series in JSON: the newest."""
_MAX_MARKS = 100


class SampleReport(msgspec.Struct, frozen=True):
    """The newest sample of one optimizer."""

    node: str
    optimizer: str
    attempt: int
    step: int | None
    grad: float | None
    param: float | None
    update_ratio: float | None
    state: dict[str, float | None]
    state_steps: tuple[int, int] | None
    nonfinite: tuple[str, ...]
    probe_ns: int | None


class SeriesReport(msgspec.Struct, frozen=True):
    """The newest points of one number, joined over attempts."""

    name: str
    steps: tuple[int, ...]
    values: tuple[float | None, ...]
    """None: it was not finite."""


class MarkReport(msgspec.Struct, frozen=True):
    """A step at which a curve may jump."""

    attempt: int
    step: int
    kind: str
    node: str
    text: str


class OptimizerReport(Report, frozen=True, kw_only=True):
    """What the optimizers hold."""

    optimizers: tuple[SampleReport, ...]
    series: tuple[SeriesReport, ...]
    marks: tuple[MarkReport, ...]
    nonfinite: tuple[str, ...]
    """Names of tensors, newest last."""


def make_optimizer(run: Run, now_mono_ns: int, now_ns: int) -> OptimizerReport:  # noqa: ARG001 - one signature for all reports
    """Return the report of this moment."""
    optimizer = run.optimizer
    names = optimizer.curves.names
    return OptimizerReport(
        report="optimizer",
        run=run.directory.path,
        time_ns=now_ns,
        optimizers=tuple(_sample(now) for now in optimizer.now()),
        series=tuple(_series(name, optimizer.curve(name)) for name in names),
        marks=tuple(_mark(mark) for mark in list(optimizer.marks)[-_MAX_MARKS:]),
        nonfinite=tuple(tensor for _, _, tensor in optimizer.nonfinite),
    )


def render_optimizer(report: OptimizerReport) -> list[str]:
    """Return the report as lines."""
    if not report.optimizers:
        return ["no optimizer was measured yet"]
    lines = []
    for now in report.optimizers[:_MAX_ROWS]:
        steps = f", state at step {now.state_steps[1]}" if now.state_steps else ""
        at = units.count(now.step)
        lines.append(f"{now.node}: {now.optimizer}, measured at step {at}{steps}")
    rows = [_row(series) for series in report.series[:_MAX_ROWS]]
    head = ("now", "least", "greatest", "number")
    lines += ["", *table(head, rows, right=range(3))]
    if report.nonfinite:
        lines += ["", f"not finite: {', '.join(report.nonfinite[-5:])}"]
    if report.marks:
        lines += ["", *(_mark_line(mark) for mark in report.marks[-10:])]
    return lines


def _row(series: SeriesReport) -> tuple[str, str, str, str]:
    finite = [value for value in series.values if value is not None]
    last = series.values[-1] if series.values else None
    low, high = min(finite, default=None), max(finite, default=None)
    return units.number(last), units.number(low), units.number(high), series.name


def _mark_line(mark: MarkReport) -> str:
    return f"step {units.count(mark.step):>8}  {mark.kind:<7} {mark.text}"


def _series(name: str, curve: Curve) -> SeriesReport:
    points = curve.newest(_MAX_POINTS)
    return SeriesReport(
        name,
        tuple(step for step, _ in points),
        tuple(None if math.isnan(value) else value for _, value in points),
    )


def _sample(now: OptimizerNow) -> SampleReport:
    return SampleReport(
        node=now.node,
        optimizer=now.optimizer,
        attempt=now.attempt,
        step=now.step,
        grad=now.grad,
        param=now.param,
        update_ratio=now.update_ratio,
        state=now.state,
        state_steps=now.state_steps,
        nonfinite=now.nonfinite,
        probe_ns=now.probe_ns,
    )


def _mark(mark: Mark) -> MarkReport:
    return MarkReport(mark.attempt, mark.step, mark.kind, mark.node, mark.text)
