"""Pane 1: who runs, how it goes, what is wrong and what to do about it."""

from textual.app import ComposeResult
from textual.containers import Horizontal

from opsdash import units
from opsdash.messages import RoundOpened, StacksOpened, StepOpened
from opsdash.projections.event_words import Severity
from opsdash.projections.steps import EVAL_LOSS, LOSS, TOKENS_PER_S, StepsNow
from opsdash.screens.client_cells import LEGEND, show_clients
from opsdash.screens.curve_series import CurveSeries
from opsdash.screens.late_heat import BOUNDS_NS, LatenessHeat
from opsdash.screens.pane import Pane, View
from opsdash.screens.rank_table import FIELDS, processes
from opsdash.screens.round_curves import RoundCurves
from opsdash.widgets.chart import Chart
from opsdash.widgets.client_grid import ClientGrid
from opsdash.widgets.facts import Fact, Facts
from opsdash.widgets.heat_map import HeatMap
from opsdash.widgets.record_table import RecordTable
from opsdash.widgets.table_messages import Selected

_TONES = {Severity.ERROR: "bad", Severity.WARNING: "warn"}
_MARKS = {Severity.ERROR: "wrong", Severity.WARNING: "warning"}
_NEWS = 6
_NEWS_FIRST = 2
"""Where there is little room."""
_NEWS_ROWS = 2_000
"""How far back news are looked for."""


class OverviewPane(Pane):
    """Processes, reasons, loss, throughput and lateness; or clients and rounds."""

    DEFAULT_CSS = """
    OverviewPane {
        & > #now { height: 1fr; }
        & #ranks { width: 3fr; height: 1fr; }
        & #reasons { width: 2fr; height: 1fr; margin: 0 0 0 1; }
        & > #curves { height: 2fr; max-height: 14; }
        & > #lateness { height: auto; min-height: 3; max-height: 8; }
        & > ClientGrid { height: auto; min-height: 3; max-height: 8; }
        & Chart { width: 1fr; }
    }
    """

    def __init__(self) -> None:
        super().__init__()
        self._curves = {n: CurveSeries(n) for n in (LOSS, EVAL_LOSS, TOKENS_PER_S)}
        self._rounds = RoundCurves()
        self._fix = ""

    def compose(self) -> ComposeResult:
        """Lay out the processes above, the curves and the heat below."""
        with Horizontal(id="now"):
            yield RecordTable(
                FIELDS,
                key=lambda one: one.row.stem,
                empty="no process has said anything",
                id="ranks",
            )
            yield Facts(id="reasons")
        with Horizontal(id="curves"):
            yield Chart(title="loss", id="loss")
            yield Chart(title="tokens/s", id="rate")
        yield HeatMap(
            BOUNDS_NS,
            title="lateness",
            say=lambda ns: units.duration(int(ns)),
            id="lateness",
        )
        yield ClientGrid(LEGEND)

    def show(self, view: View) -> None:
        """Show the run as it is now."""
        is_federated = view.run.kind == "federated"
        self.query_one("#ranks", RecordTable).show(processes(view))
        fixes = (reason.fix.text for reason in view.verdict.reasons if reason.fix)
        self._fix = next(fixes, "")
        is_narrow = self.screen.has_class("-narrow")
        self.query_one(Facts).show(_facts(view, is_narrow=is_narrow))
        self.query_one(HeatMap).display = not is_federated
        self.query_one(ClientGrid).display = is_federated
        if is_federated:
            self._show_rounds(view)
        else:
            self._show_steps(view)

    @property
    def has_filter(self) -> bool:
        """The processes."""
        return True

    def filter_rows(self) -> bool:
        """Begin to type a filter of the processes."""
        self.query_one("#ranks", RecordTable).filter_rows()
        return True

    def text_to_copy(self) -> tuple[str, str] | None:
        """Return the command that helps against the worst of what is wrong."""
        return (self._fix, "command") if self._fix else None

    def on_virtual_table_selected(self, event: Selected) -> None:
        """Show the stacks of the process under the cursor."""
        self.post_message(StacksOpened(str(event.key)))

    def on_heat_map_cell_selected(self, event: HeatMap.CellSelected) -> None:
        """Go from a hot cell to what happened then."""
        self.post_message(StepOpened(event.step, event.rank))

    def on_client_grid_cell_selected(self, event: ClientGrid.CellSelected) -> None:
        """Go from a cell to what happened in that round."""
        self.post_message(RoundOpened(event.round_num, event.client))

    def _show_steps(self, view: View) -> None:
        steps = view.run.steps
        loss, held_out = (
            self._curves[name].follow(steps.curve(name)) for name in (LOSS, EVAL_LOSS)
        )
        drawn = (loss, held_out) if len(held_out) else (loss,)
        self.query_one("#loss", Chart).show(*drawn)
        rate = self._curves[TOKENS_PER_S].follow(steps.curve(TOKENS_PER_S))
        self.query_one("#rate", Chart).show(rate)
        heat_map = self.query_one(HeatMap)
        heat = view.run.lateness.heat
        heat_map.styles.height = min(8, len(heat.window(0).ranks) + 2)
        span = self._curves[LOSS].series.span
        heat_map.show(LatenessHeat(heat, int(span[0]) if span else 0))

    def _show_rounds(self, view: View) -> None:
        self._rounds.follow(view)
        loss, accuracy = self.query_one("#loss", Chart), self.query_one("#rate", Chart)
        for chart in (loss, accuracy):
            chart.show_marks(self._rounds.marks)
        loss.show(self._rounds.loss)
        accuracy.heading = "accuracy by round"
        accuracy.show(self._rounds.accuracy)
        grid = self.query_one(ClientGrid)
        grid.styles.height = min(8, len(view.run.rounds.clients()) + 2)
        show_clients(grid, view)


def _facts(view: View, *, is_narrow: bool) -> list[Fact]:
    """Return what is wrong, how it goes, for how long there is room, and the news.

    Where there is little room, what the verdict and the charts say already is said
    last or not at all.
    """
    reasons = _reasons(view, is_brief=is_narrow)
    standing, runway, news = _standing(view), Fact("runway", _runway(view)), _news(view)
    if is_narrow:
        return [*reasons, runway, *news[:_NEWS_FIRST], *standing, *news[_NEWS_FIRST:]]
    return [*reasons, *standing, runway, *news]


def _reasons(view: View, *, is_brief: bool) -> list[Fact]:
    """Return each reason and the command that helps; brief: nothing twice."""
    facts = []
    for reason in view.verdict.reasons:
        mark = _MARKS.get(reason.severity, "note")
        if is_brief and reason.fix and reason.text == view.verdict.headline:
            facts.append(Fact(mark, reason.fix.text, "accent"))
            continue
        facts.append(Fact(mark, reason.text, _TONES.get(reason.severity, "")))
        if reason.fix:
            facts.append(Fact("", reason.fix.text, "accent"))
    return facts


def _standing(view: View) -> list[Fact]:
    """Return where the figures stand: of steps, or of the newest round."""
    if view.run.kind == "federated":
        done = [row for row in view.run.rounds.rows() if row.reason is not None]
        if not done:
            return _own_cost(view)
        row = done[0]
        members = f"{units.count(row.num_members)} of {row.num_clients}"
        text = f"{row.round_num}: {members} in {units.duration(row.round_ns)}"
        return [
            Fact("round", f"{text}, loss {units.number(row.loss)}"),
            Fact("accuracy", units.percent(row.accuracy_frac)),
            *_own_cost(view),
        ]
    now, facts = view.run.steps.now(), []
    if now.loss is not None:
        facts.append(Fact("loss", _loss(now.loss, now.eval_loss, now.eval_step)))
    if now.tokens_per_s is not None:
        speed = f"{units.number(now.tokens_per_s)} tokens/s"
        speed += f", {units.duration(now.step_ns)} a step"
        facts.append(Fact("speed", speed))
    return facts + _own_cost(view, now)


def _own_cost(view: View, now: StepsNow | None = None) -> list[Fact]:
    """Return what watching costs the run: time of a step, bytes, what was dropped."""
    rows = view.run.rank_rows(view.now_mono_ns)
    wrote = [row.agent_bytes for row in rows if row.agent_bytes is not None]
    parts = []
    if now is not None and now.agent_ns is not None and now.step_ns:
        share = units.percent(now.agent_ns / now.step_ns)
        parts.append(f"{units.duration(now.agent_ns)}/step ({share})")
    if wrote:
        parts.append(f"wrote {units.byte_size(sum(wrote))}")
    num_dropped = sum(row.num_dropped for row in rows)
    if num_dropped:
        parts.append(f"{units.count(num_dropped)} events dropped")
    return [Fact("agent", ", ".join(parts))] if parts else []


def _loss(loss: float, held_out: float | None, step: int | None) -> str:
    text = units.number(loss)
    if held_out is not None:
        text += f", held out {units.number(held_out)} at step {units.count(step)}"
    return text


def _runway(view: View) -> str:
    """Return for how long there is room on the disk."""
    free = view.run.evidence(view.now_mono_ns, view.now_ns).disk_free_bytes
    newest = view.run.checkpoints.newest()
    text = f"{units.byte_size(free)} free"
    if free is not None and newest and newest.size_bytes:
        text += f", {units.count(free // newest.size_bytes)} checkpoints"
    return text


def _news(view: View) -> list[Fact]:
    """Return the newest events that matter, newest first."""
    log = view.run.events
    found: list[Fact] = []
    for number in log.newest_with_words(_NEWS, among=_NEWS_ROWS):
        row = log.row(number)
        age = units.ago(view.now_ns - row.time_ns) if row.time_ns else "-"
        tone = _TONES.get(row.severity, "")
        found.append(Fact(age, f"{row.node}: {row.text}", tone))
    return found
