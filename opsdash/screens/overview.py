"""Pane 1: who runs, how it goes, what is wrong and what to do about it."""

from typing import ClassVar

from textual.app import ComposeResult
from textual.containers import Horizontal

from opsdash import units
from opsdash.projections.event_words import Severity
from opsdash.projections.steps import EVAL_LOSS, LOSS, TOKENS_PER_S
from opsdash.screens.curve_series import CurveSeries
from opsdash.screens.late_heat import BOUNDS_NS, ZOOMS, LatenessHeat
from opsdash.screens.pane import Pane, View
from opsdash.screens.rank_table import COLUMNS, rank_rows
from opsdash.widgets.chart import Chart
from opsdash.widgets.facts import Fact, Facts
from opsdash.widgets.heat_map import HeatMap
from opsdash.widgets.table import VirtualTable

_TONES = {Severity.ERROR: "bad", Severity.WARNING: "warn"}


class OverviewPane(Pane):
    """Processes, reasons, loss, throughput and lateness."""

    TITLE: ClassVar[str] = "overview"
    DEFAULT_CSS = """
    OverviewPane {
        & > #now { height: 1fr; }
        & #ranks { width: 3fr; height: 1fr; }
        & #reasons { width: 2fr; height: 1fr; margin: 0 0 0 1; }
        & > #curves { height: 2fr; max-height: 14; }
        & > #lateness { height: auto; min-height: 4; max-height: 8; }
        & Chart { width: 1fr; }
    }
    """

    def __init__(self) -> None:
        super().__init__()
        self._curves = {n: CurveSeries(n) for n in (LOSS, EVAL_LOSS, TOKENS_PER_S)}

    def compose(self) -> ComposeResult:
        """Lay out the processes above, the curves and the heat below."""
        with Horizontal(id="now"):
            yield VirtualTable(
                COLUMNS, empty="no process has said anything", id="ranks"
            )
            yield Facts(id="reasons")
        with Horizontal(id="curves"):
            yield Chart(title="loss", id="loss")
            yield Chart(title="tokens/s", id="rate")
        yield HeatMap(
            BOUNDS_NS,
            title="lateness",
            say=lambda ns: units.duration(int(ns)),
            zooms=ZOOMS,
            id="lateness",
        )

    def show(self, view: View) -> None:
        """Show the run as it is now."""
        self.query_one("#ranks", VirtualTable).show(rank_rows(view))
        self.query_one(Facts).show(_facts(view))
        steps = view.run.steps
        loss, held_out = (
            self._curves[name].follow(steps.curve(name)) for name in (LOSS, EVAL_LOSS)
        )
        drawn = (loss, held_out) if len(held_out) else (loss,)
        self.query_one("#loss", Chart).show(*drawn)
        rate = self._curves[TOKENS_PER_S].follow(steps.curve(TOKENS_PER_S))
        self.query_one("#rate", Chart).show(rate)
        self._show_heat(view)

    def _show_heat(self, view: View) -> None:
        heat_map = self.query_one(HeatMap)
        heat = view.run.lateness.heat
        heat_map.styles.height = min(8, len(heat.window(0).ranks) + 2)
        span = self._curves[LOSS].series.span
        heat_map.show(LatenessHeat(heat, int(span[0]) if span else 0))


def _facts(view: View) -> list[Fact]:
    verdict = view.verdict
    facts = []
    for reason in verdict.reasons:
        facts.append(Fact(_mark(reason.severity), reason.text, _tone(reason.severity)))
        if reason.fix:
            facts.append(Fact("", reason.fix, "accent"))
    now = view.run.steps.now()
    if now.loss is not None:
        facts.append(Fact("loss", _loss(now.loss, now.eval_loss, now.eval_step)))
    if now.tokens_per_s is not None:
        facts.append(Fact("speed", _speed(now.tokens_per_s, now.step_ns)))
    facts.append(Fact("runway", _runway(view)))
    facts += _news(view)
    return facts


def _mark(severity: Severity) -> str:
    return {Severity.ERROR: "wrong", Severity.WARNING: "warning"}.get(severity, "note")


def _tone(severity: Severity) -> str:
    return _TONES.get(severity, "")


def _loss(loss: float, held_out: float | None, step: int | None) -> str:
    text = units.number(loss)
    if held_out is not None:
        text += f", held out {units.number(held_out)} at step {units.count(step)}"
    return text


def _speed(tokens_per_s: float, step_ns: int | None) -> str:
    return f"{units.number(tokens_per_s)} tokens/s, {units.duration(step_ns)} a step"


def _runway(view: View) -> str:
    free = view.run.evidence(view.now_mono_ns, view.now_ns).disk_free_bytes
    newest = view.run.checkpoints.newest()
    text = f"{units.byte_size(free)} free"
    if free is not None and newest and newest.size_bytes:
        text += f", {units.count(free // newest.size_bytes)} checkpoints"
    return text


def _news(view: View, most: int = 6) -> list[Fact]:
    """Return the newest events that matter, newest first."""
    log = view.run.events
    found: list[Fact] = []
    for number in range(log.stop - 1, max(log.first, log.stop - 2_000) - 1, -1):
        row = log.row(number)
        if row.severity is Severity.DETAIL or row.text is None:
            continue
        age = units.ago(view.now_ns - row.time_ns) if row.time_ns else "-"
        found.append(Fact(age, f"{row.node}: {row.text}", _tone(row.severity)))
        if len(found) == most:
            break
    return found
