"""The dashboard's app: it drains the feed, shows the run, and acts on keys.

Everything about the run comes from projections; everything done to it goes
through operations. This file wires them to keys and to the terminal's end.
"""

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterable
from typing import ClassVar

from textual.app import App, SystemCommand
from textual.binding import Binding, BindingType
from textual.screen import Screen
from textual.widgets import Input

from agent.rundir.layout import RunDir
from opsdash.feed.reader import RunReader
from opsdash.feed.thread import Feed
from opsdash.jobs import JobBoard, ResumePlanning, Resuming, Verification
from opsdash.messages import ResumeRequested, StepOpened, VerifyRequested
from opsdash.operations.record import OperationLog
from opsdash.operations.resume import Loss
from opsdash.operations.start import start_resume
from opsdash.projections.run import Run
from opsdash.screens.events import EventsPane
from opsdash.screens.help import HelpScreen, key_facts
from opsdash.screens.palette import palette_commands
from opsdash.screens.pane import View
from opsdash.screens.pane_bar import PaneBar
from opsdash.screens.plan_words import shown_plan
from opsdash.screens.watch import PANES, WatchScreen
from opsdash.theme import THEMES, Appearance, appearance
from opsdash.widgets.plan import PlanDialog
from opsdash.widgets.progress import JobLine

_DRAINS_PER_S = 4
_IDLE_SHOW_S = 1.0
"""Without news the screen is shown anew once a second: ages go on."""
_EXIT_CODES = {signal.SIGTERM: 143, signal.SIGHUP: 129}
_CHECKPOINTS, _EVENTS = 2, 6


class OpsdashApp(App[int]):
    """Watches one run directory."""

    CSS = """
    .-ascii CheckpointsPane > VerticalScroll, .-ascii Pane > Facts {
        border-top: ascii $panel;
    }
    .-ascii HelpScreen > VerticalScroll { border: ascii $primary; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        *(
            # Before the focused widget sees it: what is typed next is for the pane.
            Binding(str(i), f"pane({i - 1})", pane.TITLE, show=False, priority=True)
            for i, pane in enumerate(PANES, start=1)
        ),
        Binding("v", "verify_newest", "Verify"),
        Binding("r", "resume", "Resume"),
        Binding("slash", "filter", "Filter", priority=True),
        Binding("p", "pause", "Pause display"),
        Binding("z", "maximise", "Maximise", show=False),
        Binding("c", "copy", "Copy", show=False),
        Binding("question_mark", "help", "Help"),
        Binding("ctrl+p", "command_palette", "Palette", show=False),
        Binding("q", "quit", "Quit"),
    ]

    def __init__(
        self, run_dir: RunDir, look: Appearance, *, is_readonly: bool = False
    ) -> None:
        """Prepare to watch; nothing is read before the first picture."""
        super().__init__(ansi_color=look.ansi_color)
        self.glyphs = look.glyphs
        self.crash: BaseException | None = None
        """What ended the app, where it was our own fault."""
        self._run_dir = run_dir
        self._is_readonly = is_readonly
        self._is_paused = False
        self._run_state = Run()
        self._feed = Feed(RunReader(run_dir))
        self._operations = OperationLog(run_dir)
        self._jobs = JobBoard()
        self._shown_s = 0.0
        for theme in THEMES.values():
            self.register_theme(theme)
        self.theme = look.theme

    async def on_mount(self) -> None:
        """Draw first, then read."""
        self.set_class(self.glyphs.ascii_only, "-ascii")
        loop = asyncio.get_running_loop()
        for number, code in _EXIT_CODES.items():
            with contextlib.suppress(NotImplementedError, RuntimeError):
                loop.add_signal_handler(number, self.exit, code)
        await self.push_screen(WatchScreen(str(self._run_dir.path)))
        await self.action_pane(0)
        self.call_after_refresh(self._start)

    def on_unmount(self) -> None:
        """Stop reading; jobs are daemons and end with the process."""
        self._jobs.cancel_all()
        self._feed.stop()

    def get_key_display(self, binding: Binding) -> str:
        """Return a key's name for the footer, in characters that can be shown."""
        shown = super().get_key_display(binding)
        return shown if shown.isascii() or not self.glyphs.ascii_only else binding.key

    def check_action(
        self,
        action: str,
        parameters: tuple[object, ...],  # noqa: ARG002 - Textual's signature
    ) -> bool | None:
        """Leave keys to what is typed into, and acting to who may act."""
        if action in ("pane", "filter"):
            is_typing = isinstance(self.screen.focused, Input)
            return isinstance(self.screen, WatchScreen) and not is_typing
        return not (self._is_readonly and action == "resume")

    async def action_pane(self, index: int) -> None:
        """Bring a pane into sight."""
        watch = self._watch
        if watch is not None:
            await watch.show_pane(index, self._view())

    async def action_verify_newest(self) -> None:
        """Read the newest published checkpoint again."""
        newest = self._run_state.checkpoints.newest()
        if newest is None:
            self.notify("no checkpoint was published yet", severity="warning")
            return
        await self.action_pane(_CHECKPOINTS)
        self._begin_verify((newest.directory,))

    def action_resume(self) -> None:
        """Show what a resume from the newest verified checkpoint would do."""
        self._plan_resume(None)

    def action_filter(self) -> None:
        """Begin to type a filter, where the pane has one."""
        pane = self._watch.pane if self._watch else None
        if pane is not None and not pane.filter_rows():
            self.notify("nothing to filter here: 7 has the events")

    def action_pause(self) -> None:
        """Let the display stand still while reading goes on."""
        self._is_paused = not self._is_paused
        self._show()

    def action_maximise(self) -> None:
        """Give the focused widget the whole screen, or take it back."""
        screen = self.screen
        if screen.maximized is not None:
            screen.minimize()
        elif screen.focused is not None:
            screen.maximize(screen.focused, container=False)

    def action_copy(self) -> None:
        """Copy what the pane offers through the terminal (OSC 52)."""
        pane = self._watch.pane if self._watch else None
        offered = pane.text_to_copy() if pane is not None else None
        if offered is None:
            self.notify("nothing to copy here")
            return
        self.copy_to_clipboard(offered[0])
        self.notify(f"{offered[1]} copied, if the terminal allows it")

    def action_help(self) -> None:
        """Show the keys that work here."""
        focused = self.screen.focused or self.screen
        self.push_screen(HelpScreen(key_facts(focused.ancestors_with_self)))

    def on_verify_requested(self, message: VerifyRequested) -> None:
        """Read what a pane named again."""
        self._begin_verify(message.names)

    def on_resume_requested(self, message: ResumeRequested) -> None:
        """Plan a resume from what a pane named."""
        if not self._is_readonly:
            self._plan_resume(message.name)

    async def on_step_opened(self, message: StepOpened) -> None:
        """Go to the events of a step."""
        await self.action_pane(_EVENTS)
        pane = self._watch.pane if self._watch else None
        if isinstance(pane, EventsPane):
            pane.show_step(message.step, message.rank)

    async def on_pane_bar_chosen(self, message: PaneBar.Chosen) -> None:
        """Go to the pane that was clicked."""
        await self.action_pane(message.index)

    def on_job_line_cancel_requested(self, message: JobLine.CancelRequested) -> None:
        """Stop a job."""
        key = self._watch.job_key(message.job_line) if self._watch else None
        if key is not None:
            self._jobs.cancel(key)

    def get_system_commands(self, screen: Screen[object]) -> Iterable[SystemCommand]:
        """Offer every pane, checkpoint and action in the palette."""
        yield from super().get_system_commands(screen)
        yield from palette_commands(
            self._run_state.checkpoints.rows(),
            lambda index: self.run_worker(self.action_pane(index)),
            self._begin_verify,
        )

    @property
    def _watch(self) -> WatchScreen | None:
        screens = (s for s in self.screen_stack if isinstance(s, WatchScreen))
        return next(screens, None)

    def _start(self) -> None:
        self._feed.start()
        self.set_interval(1 / _DRAINS_PER_S, self._tick)

    async def _tick(self) -> None:
        """Fold what came; show it, unless the display is paused."""
        batches = self._feed.take()
        for batch in batches:
            self._run_state.fold(batch)
        if self._watch is not None:
            await self._jobs.show_on(self._watch)
        has_news = any(batch.lines for batch in batches)
        if self._is_paused:
            return
        if has_news or time.monotonic() - self._shown_s >= _IDLE_SHOW_S:
            self._show()

    def _view(self) -> View:
        now_mono_ns, now_ns = time.monotonic_ns(), time.time_ns()
        verdict = self._run_state.verdict(now_mono_ns, now_ns)
        return View(self._run_state, now_mono_ns, now_ns, verdict)

    def _show(self) -> None:
        watch = self._watch
        if watch is None or not watch.is_mounted:
            return
        self._shown_s = time.monotonic()
        watch.show(self._view(), self._note())

    def _note(self) -> str:
        notes = []
        if self._is_paused:
            notes.append("display paused")
        if not self._run_state.is_caught_up:
            notes.append(f"reading {self._run_state.read_frac:.0%}")
        if self._run_state.is_polling:
            notes.append("polling")
        if self._is_readonly:
            notes.append("read only")
        return ", ".join(notes)

    def _begin_verify(self, names: tuple[str, ...]) -> None:
        self._jobs.add(Verification(self._run_dir, names, self._operations))

    def _plan_resume(self, name: str | None) -> None:
        evidence = self._run_state.steps
        loss = Loss(evidence.step, evidence.typical_step_ns)
        planning = ResumePlanning(self._run_dir, name, loss)
        self._jobs.add(planning, lambda: self._ask_to_resume(planning))

    def _ask_to_resume(self, planning: ResumePlanning) -> bool:
        """Show the plan; False: there is none, and the job's line says why."""
        plan = planning.plan
        if plan is None:
            return False

        def answered(yes: bool | None) -> None:  # noqa: FBT001 - Textual's callback
            if yes:
                started = start_resume(self._run_dir, plan, self._operations)
                self._jobs.add(Resuming(started, plan.title))

        self.push_screen(PlanDialog(shown_plan(plan)), answered)
        return True

    def _fatal_error(self) -> None:
        """Leave the screen as it was found; the command line tells what happened."""
        self.crash = sys.exc_info()[1] or self._exception
        self._close_messages_no_wait()


def run_app(
    run_dir: RunDir,
    *,
    is_readonly: bool = False,
    theme: str | None = None,
    is_ascii: bool = False,
    has_mouse: bool = True,
) -> int:
    """Show the dashboard until it is left; return the exit code.

    Raises:
        BaseException: what went wrong, after the terminal was restored.
    """
    look = appearance(
        os.environ,
        theme=theme,
        ascii_only=is_ascii,
        encoding=getattr(sys.stdout, "encoding", None),
    )
    app = OpsdashApp(run_dir, look, is_readonly=is_readonly)
    code = app.run(mouse=has_mouse)
    if app.crash is not None:
        raise app.crash
    return code or 0
