"""The screen that watches one run: verdict, one pane, jobs, keys.

Panes are made when they are first looked at, so that the first picture does not
wait for charts that nobody asked for; only the pane in sight is kept up.
"""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar, cast

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.widgets import Input

from opsdash.messages import (
    ProcessOpened,
    ResumeRequested,
    RoundOpened,
    StacksOpened,
    StepOpened,
    StoreVerifyRequested,
    VerifyRequested,
)
from opsdash.projections.run_state import State
from opsdash.screens.pane import ACTS, Pane, View, may_act
from opsdash.screens.pane_bar import PaneBar
from opsdash.screens.panes import CHECKPOINTS, CHUNKS, EVENTS, PANES
from opsdash.screens.verdict_text import verdict_text
from opsdash.widgets.key_line import KeyLine
from opsdash.widgets.progress import JobLine, JobState
from opsdash.widgets.thin_screen import ThinScreen
from opsdash.widgets.verdict import VerdictLine

if TYPE_CHECKING:
    from opsdash.screens.events import EventsPane

_MAX_JOB_LINES = 3
_LOAD_AFTER_S, _LOAD_EVERY_S = 1.0, 0.2
"""When panes that nobody asked for yet are loaded, one at a time."""


class WatchScreen(ThinScreen[None]):
    """Everything about one run."""

    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (100, "-wide")]  # noqa: RUF012 - Textual's declaration
    DEFAULT_CSS = """
    WatchScreen {
        overflow: hidden;
        background: $background;
        & > #panes { height: 1fr; background: $background; }
        & > #jobs { height: auto; max-height: 6; background: $background; }
        &.-narrow {
            & OverviewPane #reasons { width: 2fr; }
            & OverviewPane #ranks { width: 2fr; }
            & OverviewPane > #curves { height: 7; }
            & BarriersPane > HeatMap { margin: 0; }
            & OptimizerPane Container { grid-size: 2; min-height: 15; }
        }
    }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        *(
            # Before the focused widget sees it: what is typed next is for the pane.
            Binding(str(i), f"pane({i - 1})", pane.title, show=False, priority=True)
            for i, pane in enumerate(PANES, start=1)
        ),
        Binding("v", "verify_newest", "Verify"),
        Binding("r", "resume", "Resume"),
        Binding("R", "restore", "Restore a round", show=False),
        Binding("slash", "filter", "Filter", priority=True),
        Binding("z", "zoom", "Maximise", show=False),
        Binding("c", "copy", "Copy", show=False),
    ]

    def __init__(self, name: str, view: Callable[[], View]) -> None:
        """Watch a run; `view` gives its present moment."""
        super().__init__()
        self.shown = 0
        self._run_name = name
        self._view = view
        self._panes: dict[int, Pane] = {}
        self._jobs: dict[str, JobLine] = {}
        self._jobs_without_line: set[str] = set()
        """Those that gave way; one that still runs comes back where there is room."""
        self._changing = asyncio.Lock()
        self._was_asked = False
        self._is_over = self._is_federated = self._is_paused = False

    def compose(self) -> ComposeResult:
        """Lay out verdict, bar, the place of the pane, jobs and keys."""
        yield VerdictLine()
        yield PaneBar([pane.title for pane in PANES])
        yield Vertical(id="panes")
        yield Vertical(id="jobs")
        yield KeyLine(self._is_offered, self._words_of)

    def on_mount(self) -> None:
        """Have the other panes ready before they are asked for."""
        self.set_timer(_LOAD_AFTER_S, self._load_next)

    def _load_next(self) -> None:
        """Load one module, 5 ms or so: keys go in between."""
        waiting = [pane for pane in PANES if not pane.is_loaded]
        if waiting:
            _ = waiting[0].pane_class
            self.set_timer(_LOAD_EVERY_S, self._load_next)

    def check_action(
        self,
        action: str,
        parameters: tuple[object, ...],  # noqa: ARG002 - Textual's signature
    ) -> bool | None:
        """Leave keys to what is typed into, and acting to who may act."""
        if action in ("pane", "filter"):
            return not isinstance(self.focused, Input)
        return may_act(self.app) or action not in ACTS

    @property
    def pane(self) -> Pane | None:
        """The pane in sight."""
        return self._panes.get(self.shown)

    @property
    def is_there(self) -> bool:
        """Whether its widgets are: they come before it is mounted, and go before it."""
        # What is being taken down is displayed no more.
        return self.is_mounted and self.is_attached and self.display

    async def show_first_pane(self) -> None:
        """Bring the first pane into sight, unless another was asked for before."""
        if not self._was_asked:
            await self.show_pane(0)

    async def show_pane(self, index: int) -> Pane:
        """Bring a pane into sight, and the focus into it."""
        self._was_asked = True
        async with self._changing:
            pane = self._panes.get(index) or PANES[index].pane_class()
            if index not in self._panes and self.is_there:
                await self.query_one("#panes").mount(pane)
                # Only now: a pane that is half made must not be shown anything.
                self._panes[index] = pane
        if not self.is_there:
            return pane
        if self.maximized is not None and index != self.shown:
            self.minimize()
        self.shown = index
        for number, other in self._panes.items():
            other.display = number == index
        self.show(self._view())
        pane.focus_first()
        return pane

    async def action_pane(self, index: int) -> None:
        """Bring a pane into sight."""
        await self.show_pane(index)

    async def action_verify_newest(self) -> None:
        """Read the newest published checkpoint again; of a federation, the stores."""
        run = self._view().run
        newest, nodes = run.checkpoints.newest(), run.chunks.nodes()
        if newest is not None:
            await self.show_pane(CHECKPOINTS)
            self.post_message(VerifyRequested((newest.directory,)))
        elif nodes:
            await self.show_pane(CHUNKS)
            self.post_message(StoreVerifyRequested(nodes))
        else:
            self.notify("nothing was saved yet", severity="warning")

    def action_resume(self) -> None:
        """Show what a resume from the newest verified checkpoint would do."""
        self.post_message(ResumeRequested(None))

    async def action_restore(self) -> None:
        """Go where a round can be chosen to be restored."""
        await self.show_pane(CHUNKS)
        self.notify("enter opens a node and then a round; there, R restores it")

    def action_filter(self) -> None:
        """Begin to type a filter, where the pane has one."""
        if self.pane is not None and not self.pane.filter_rows():
            self.notify("nothing to filter here: 7 has the events")

    def action_zoom(self) -> None:
        """Give the focused widget the whole screen, or take it back."""
        if self.maximized is not None:
            self.minimize()
        elif self.focused is not None:
            self.maximize(self.focused, container=False)

    def action_copy(self) -> None:
        """Copy what the pane offers through the terminal (OSC 52)."""
        offered = self.pane.text_to_copy() if self.pane is not None else None
        if offered is None:
            self.notify("nothing to copy here")
            return
        self.app.copy_to_clipboard(offered[0])
        self.notify(f"{offered[1]} copied, if the terminal allows it")

    async def on_step_opened(self, message: StepOpened) -> None:
        """Go to the events of a step."""
        (await self._show_events()).show_step(message.step, message.rank)

    async def on_round_opened(self, message: RoundOpened) -> None:
        """Go to the events of a round."""
        (await self._show_events()).show_round(message.round_num)

    async def on_process_opened(self, message: ProcessOpened) -> None:
        """Go to the events of a process."""
        (await self._show_events()).show_process(message.stem)

    async def _show_events(self) -> "EventsPane":
        return cast("EventsPane", await self.show_pane(EVENTS))

    def on_stacks_opened(self, message: StacksOpened) -> None:
        """Show the stacks that a process wrote."""
        # Not on the way to the first screen, as the panes.
        from opsdash.screens.stacks import stacks_of  # noqa: PLC0415 - see above

        acts = may_act(self.app)
        self.app.push_screen(stacks_of(self._view(), message.stem, may_act=acts))

    async def on_pane_bar_chosen(self, message: PaneBar.Chosen) -> None:
        """Go to the pane that was clicked."""
        await self.show_pane(message.index)

    def show(self, view: View, note: str = "") -> None:
        """Show the run as it is now."""
        if not self.is_there:
            return
        verdict = view.verdict
        self._is_over = verdict.state in (State.DEAD, State.FINISHED)
        self._is_federated = view.run.kind == "federated"
        self._is_paused = view.run.is_paused(view.now_mono_ns)
        self.query_one(VerdictLine).show(str(verdict.state), verdict_text(view))
        self.query_one(PaneBar).show(
            self.shown, note or self._run_name, is_urgent=bool(note)
        )
        pane = self.pane
        if pane is not None and pane.is_attached:
            pane.show(view)
        self.query_one(KeyLine).changed()

    def on_virtual_table_highlighted(self) -> None:
        """Name the keys that lead to something from the row under the cursor."""
        self.query_one(KeyLine).changed()

    def _is_offered(self, action: str) -> bool:
        """Whether the line of keys names an action; what is not named tells why."""
        pane = self.pane
        if action == "request":
            return not self._is_over and not self._is_federated
        if action == "pause_run":
            return not self._is_over
        if action == "resume" and self._is_federated and not self._is_over:
            return False  # a federation that runs goes back by its rounds
        if pane is None:
            return True
        if action in ("filter", "select"):
            return pane.has_filter if action == "filter" else pane.opens_rows
        return pane.offers(action)

    def _words_of(self, action: str) -> str | None:
        if action == "pause_run" and self._is_paused:
            return "Go on"
        return self.pane.words_of(action) if self.pane is not None else None

    async def show_job(self, key: str, state: JobState) -> None:
        """Show how far a job is; its outcome stays until newer jobs need the room."""
        if not self.is_there:
            return
        line, lines = self._jobs.get(key), self.query_one("#jobs")
        if line is not None:
            line.show(state)
            return
        if len(self._jobs) >= _MAX_JOB_LINES:
            if key in self._jobs_without_line and state.is_running:
                return
            gone = self._job_to_hide()
            self._jobs_without_line.add(gone)
            await self._jobs.pop(gone).remove()
        if lines.is_attached:  # still: it takes a while to remove a line
            self._jobs[key] = JobLine(state)
            await lines.mount(self._jobs[key])

    def _job_to_hide(self) -> str:
        """Return whose line gives way: of one that ended, or the oldest."""
        ended = (key for key, line in self._jobs.items() if not line.state.is_running)
        return next(ended, next(iter(self._jobs)))

    async def forget_job(self, key: str) -> None:
        """Take a job's line away: its outcome is shown elsewhere."""
        line = self._jobs.pop(key, None)
        if line is not None and self.is_there:
            await line.remove()

    async def forget_ended(self) -> bool:
        """Take the lines of jobs that ended away; False: there is none."""
        ended = [key for key, line in self._jobs.items() if not line.state.is_running]
        for key in ended:
            await self.forget_job(key)
        return bool(ended)

    def job_key(self, line: JobLine) -> str | None:
        """Return which job a line shows."""
        return next((key for key, mine in self._jobs.items() if mine is line), None)
