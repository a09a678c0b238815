"""The screen that watches one run: verdict, one pane, jobs, keys.

Panes are made when they are first looked at, so that the first picture does not
wait for charts that nobody asked for; only the pane in sight is kept up.
"""

from textual.app import ComposeResult
from textual.containers import Vertical
from textual.widgets import Footer

from opsdash.screens.barriers import BarriersPane
from opsdash.screens.checkpoints import CheckpointsPane
from opsdash.screens.chunks import ChunksPane
from opsdash.screens.events import EventsPane
from opsdash.screens.optimizer import OptimizerPane
from opsdash.screens.overview import OverviewPane
from opsdash.screens.pane import Pane, View
from opsdash.screens.pane_bar import PaneBar
from opsdash.screens.rounds import RoundsPane
from opsdash.screens.verdict_text import verdict_text
from opsdash.widgets.progress import JobLine, JobState
from opsdash.widgets.thin_screen import ThinScreen
from opsdash.widgets.verdict import VerdictLine

PANES: tuple[type[Pane], ...] = (
    OverviewPane,
    BarriersPane,
    CheckpointsPane,
    OptimizerPane,
    ChunksPane,
    RoundsPane,
    EventsPane,
)
_MAX_JOB_LINES = 3


class WatchScreen(ThinScreen[None]):
    """Everything about one run."""

    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (100, "-wide")]  # noqa: RUF012 - Textual's declaration
    DEFAULT_CSS = """
    WatchScreen {
        overflow: hidden;
        background: $background;
        & > #panes { height: 1fr; background: $background; }
        & > #jobs { height: auto; max-height: 3; background: $background; }
        & > Footer { background: $panel; }
        &.-narrow {
            & OverviewPane #reasons { width: 2fr; }
            & OverviewPane #ranks { width: 2fr; }
            & OverviewPane > #curves { height: 8; }
            & BarriersPane > HeatMap { margin: 0; }
            & OptimizerPane Container { grid-size: 2; min-height: 18; }
        }
    }
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        self.shown = 0
        self._run_name = name
        self._panes: dict[int, Pane] = {}
        self._jobs: dict[str, JobLine] = {}

    def compose(self) -> ComposeResult:
        """Lay out verdict, bar, the place of the pane, jobs and keys."""
        yield VerdictLine()
        yield PaneBar([pane.TITLE for pane in PANES])
        yield Vertical(id="panes")
        yield Vertical(id="jobs")
        yield Footer(show_command_palette=False)

    @property
    def pane(self) -> Pane | None:
        """The pane in sight."""
        return self._panes.get(self.shown)

    async def show_pane(self, index: int, view: View | None) -> Pane:
        """Bring a pane into sight, and the focus into it."""
        pane = self._panes.get(index)
        if pane is None:
            pane = self._panes[index] = PANES[index]()
            await self.query_one("#panes").mount(pane)
        self.shown = index
        for number, other in self._panes.items():
            other.display = number == index
        if view is not None:
            self.show(view)
        pane.focus_first()
        return pane

    def show(self, view: View, note: str = "") -> None:
        """Show the run as it is now."""
        verdict = view.verdict
        self.query_one(VerdictLine).show(str(verdict.state), verdict_text(verdict))
        self.query_one(PaneBar).show(
            self.shown, note or self._run_name, is_urgent=bool(note)
        )
        pane = self.pane
        if pane is not None and pane.is_attached:
            pane.show(view)

    async def show_job(self, key: str, state: JobState) -> None:
        """Show how far a job is; its outcome stays until newer jobs need the room."""
        if not self.is_running:
            return
        line = self._jobs.get(key)
        if line is not None:
            line.show(state)
            return
        if len(self._jobs) >= _MAX_JOB_LINES:
            await self._jobs.pop(next(iter(self._jobs))).remove()
        self._jobs[key] = JobLine(state)
        await self.query_one("#jobs").mount(self._jobs[key])

    async def forget_job(self, key: str) -> None:
        """Take a job's line away: its outcome is shown elsewhere."""
        line = self._jobs.pop(key, None)
        if line is not None and self.is_running:
            await line.remove()

    def job_key(self, line: JobLine) -> str | None:
        """Return which job a line shows."""
        return next((key for key, mine in self._jobs.items() if mine is line), None)
