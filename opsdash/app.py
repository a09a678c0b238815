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
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from textual import on
from textual.app import App, SystemCommand
from textual.binding import Binding, BindingType
from textual.events import Event, Key
from textual.screen import Screen
from textual.scrollbar import ScrollBar

from agent.rundir.errors import RunDirError
from agent.rundir.layout import RunDir
from opsdash import messages
from opsdash.collector import Collector
from opsdash.feed.cursor import Clocks
from opsdash.feed.reader import system_clocks
from opsdash.jobs.attached import Attached
from opsdash.operations.plan import Plan
from opsdash.operations.preferences import ThemeMemory, read_theme
from opsdash.screens.help import HelpScreen, key_facts
from opsdash.screens.palette import Palette, key_commands, palette_commands
from opsdash.screens.pane import ABOUT_A_RUN, ACTS
from opsdash.screens.picker import PickerScreen
from opsdash.screens.plan_words import shown_plan
from opsdash.screens.watch import WatchScreen
from opsdash.theme import THEMES, Appearance, PlainScrollBar, appearance, next_theme
from opsdash.widgets.plan import PlanDialog
from opsdash.widgets.progress import JobLine

if TYPE_CHECKING:
    from opsdash.jobs.acting import Acting

_DRAIN_S = 0.05
"""Between two looks at what was read: oftener than the feed looks, in small bites."""
_CATCH_UP_S = 0.005
"""The same while a long past is read: keys and frames go in between."""
_SWITCH_S = 0.001
"""After which the thread that reads lets that of the keys go on, instead of 5 ms."""
_KEY_FIRST_S = 0.04
"""What a key shows is painted before anything else is folded, for so long."""
_LATEST_FOLD_S = 0.25
"""Keys that repeat keep what was read waiting no longer than this."""
_COLLECT_LOOK_S = 0.5
_LAST_WRITE_S = 0.2
"""Leaving waits no longer for a theme that is being written down."""
_EXIT_CODES = {signal.SIGTERM: 143, signal.SIGHUP: 129}


class OpsdashApp(App[int]):
    """Watches one run directory at a time."""

    CSS = """
    .-ascii CheckpointsPane > VerticalScroll, .-ascii Pane > Facts {
        border-top: ascii $panel;
    }
    .-ascii .boxed { border: ascii $primary; }
    .-ascii Toast { border-left: ascii $primary; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("s", "request('checkpoint-now')", "Save"),
        Binding("space", "pause_run", "Pause run"),
        Binding("S", "request('stop')", "Stop the run", show=False),
        Binding("K", "request('stacks')", "Take stacks", show=False),
        Binding("f", "request('profile')", "Profile five steps", show=False),
        Binding("x", "cancel_job", "Cancel the newest job, or clear lines", show=False),
        Binding("p", "hold", "Hold the display", show=False),
        Binding("t", "next_theme", "Next theme", show=False),
        Binding("a", "pick_run", "Attach another run", show=False),
        Binding("ctrl+p", "command_palette", "Palette", show=False),
        Binding("question_mark", "help", "Help"),
        Binding("q", "quit", "Quit"),
    ]

    def __init__(
        self,
        run: RunDir | None,
        look: Appearance,
        *,
        is_readonly: bool = False,
        runs: Path | None = None,
        config: Path | None = None,
        clocks: Callable[[], Clocks] = system_clocks,
    ) -> None:
        """Prepare to watch `run`, or to choose one below `runs`; nothing is read."""
        super().__init__(ansi_color=look.ansi_color)
        self.glyphs = look.glyphs
        self.collector = Collector()
        self.is_readonly = is_readonly
        self.crash: BaseException | None = None
        """What ended the app, where it was our own fault."""
        self._first_run, self._runs = run, runs
        self._clocks = clocks
        self._themes = ThemeMemory(config, self._theme_trouble) if config else None
        self._is_held = self._is_hurrying = False
        self._folded_s = 0.0
        self._attached: Attached | None = None
        self._acts: Acting | None = None
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
        if self._first_run is not None:
            await self._watch_run(self._first_run)
        else:
            self.action_pick_run()
        self.set_interval(_DRAIN_S, self._tick)
        self.set_interval(_COLLECT_LOOK_S, self.collector.look)

    def on_unmount(self) -> None:
        """Stop reading; what was started goes on."""
        if self._attached is not None:
            self._attached.stop()
        if self._themes is not None:
            self._themes.wait(_LAST_WRITE_S)

    async def on_event(self, event: Event) -> None:
        """Note when keys come: other work goes after them."""
        if isinstance(event, Key):
            self.collector.note_key()
        await super().on_event(event)

    def check_action(
        self,
        action: str,
        parameters: tuple[object, ...],  # noqa: ARG002 - Textual's signature
    ) -> bool | None:
        """Leave acting to who may act, and to where a run is watched."""
        is_picking = any(isinstance(one, PickerScreen) for one in self.screen_stack)
        if action in ACTS:
            return not self.is_readonly and not is_picking
        return not (is_picking and action in ABOUT_A_RUN)

    def action_request(self, kind: str) -> None:
        """Show what a request to the running trainer would do."""
        if self._acting is not None:
            self._acting.request(kind)

    def action_pause_run(self) -> None:
        """Show what pausing the run, or letting it go on, would do."""
        if self._acting is not None:
            self._acting.pause_or_continue()

    async def action_cancel_job(self) -> None:
        """Stop the job that was begun last; where none can be, clear what ended."""
        jobs = self._attached.jobs if self._attached is not None else None
        if jobs is None or jobs.cancel_newest():
            return
        if self._watch is None or not await self._watch.forget_ended():
            self.notify(jobs.why_none_cancelled(), markup=False)

    def action_hold(self) -> None:
        """Let the display stand still while reading goes on."""
        self._is_held = not self._is_held
        self._show()

    def action_next_theme(self) -> None:
        """Change to the next theme, and remember it."""
        name = next_theme(self.theme, os.environ)
        if name is None:
            self.notify("NO_COLOR is set: there are no colours to choose")
            return
        self.theme = name
        self.notify(f"theme {name}")
        if self._themes is not None:
            self._themes.remember(name)

    def on_theme_not_remembered(self, message: messages.ThemeNotRemembered) -> None:
        """Say why the next start will look as before."""
        why = f"not remembered: {message.why}"
        self.notify(why, severity="warning", markup=False)

    def _theme_trouble(self, why: str) -> None:
        """Say so from the writing thread; there may be no loop to hear it any more."""
        with contextlib.suppress(RuntimeError):
            self.post_message(messages.ThemeNotRemembered(why))

    def action_pick_run(self) -> None:
        """Show the runs that lie together with this one."""
        root, is_first = self._runs, self._attached is None
        if root is None and self._attached is not None:
            root = self._attached.run.path.absolute().parent
        if root is not None:
            self.push_screen(PickerScreen(root, is_first=is_first))

    def action_command_palette(self) -> None:
        """Offer everything that can be done, by its words."""
        if not isinstance(self.screen, Palette):
            self.push_screen(Palette(ascii_only=self.glyphs.ascii_only))

    def action_help(self) -> None:
        """Show the keys that work here."""
        focused = self.screen.focused or self.screen
        self.push_screen(HelpScreen(key_facts(focused.ancestors_with_self)))

    @on(messages.Wish)
    def grant(self, wish: messages.Wish) -> None:
        """Do what a pane asks for, or show its plan."""
        if self._acting is not None:
            self._acting.grant(wish)

    async def on_run_chosen(self, message: messages.RunChosen) -> None:
        """Watch another run."""
        while len(self.screen_stack) > 1:
            await self.pop_screen()
        await self._watch_run(RunDir(message.path))

    def on_job_line_cancel_requested(self, message: JobLine.CancelRequested) -> None:
        """Stop a job."""
        key = self._watch.job_key(message.job_line) if self._watch else None
        if key is not None and self._attached is not None:
            self._attached.jobs.cancel(key)

    def ask_to_confirm(self, plan: Plan, act: Callable[[], None]) -> None:
        """Show a plan; act if the operator confirms it."""
        self.push_screen(
            PlanDialog(shown_plan(plan)), lambda yes: act() if yes else None
        )

    def show_screen(self, screen: Screen[None]) -> None:
        """Show something over the run."""
        self.push_screen(screen)

    def tell_trouble(self, error: RunDirError) -> None:
        """Say why something cannot be done, and what helps."""
        hint = f"\n{error.hint}" if error.hint else ""
        self.notify(f"{error}{hint}", severity="error", markup=False, timeout=15)

    def get_system_commands(self, screen: Screen[object]) -> Iterable[SystemCommand]:
        """Offer every pane, checkpoint and action in the palette."""
        if self._attached is not None and self._watch is not None:
            yield from palette_commands(self._watch, self._attached.folded)
        else:
            yield from key_commands(screen.ancestors_with_self)

    @property
    def _acting(self) -> "Acting | None":
        """What can be done to the run that is watched; None: none is."""
        if self._acts is None and self._attached is not None:
            # 30 ms that are not on the way to the first screen.
            from opsdash.jobs.acting import Acting  # noqa: PLC0415 - see above

            self._acts = Acting(self._attached, self)
        return self._acts

    @property
    def _watch(self) -> WatchScreen | None:
        screens = (s for s in self.screen_stack if isinstance(s, WatchScreen))
        return next(screens, None)

    async def _watch_run(self, run: RunDir) -> None:
        """Show a run in place of the one before."""
        if self._attached is not None:
            self._attached.stop()
        attached = Attached(run, is_readonly=self.is_readonly, clocks=self._clocks)
        self._attached, self._acts = attached, None
        watch = WatchScreen(str(run.path), attached.view)
        await self.push_screen(watch)
        # The frame is seen before what fills it is loaded, and that before it is read.
        self.call_after_refresh(self._begin, watch, attached)

    async def _begin(self, watch: WatchScreen, attached: Attached) -> None:
        await watch.show_first_pane()
        if self._attached is attached:
            attached.start()

    async def _tick(self) -> None:
        """Fold what came, show it, and come again: soon while there is more."""
        attached, now_s = self._attached, time.monotonic()
        is_overdue = now_s - self._folded_s >= _LATEST_FOLD_S
        is_key_first = self.collector.quiet_s < _KEY_FIRST_S and not is_overdue
        if attached is None or is_key_first:
            return
        self._folded_s = now_s
        attached.take()
        if self._watch is not None:
            await attached.jobs.show_on(self._watch)
        if attached.is_due and not self._is_held:
            self.call_later(self._show)  # after the keys that came meanwhile
        if attached.is_behind and not self._is_hurrying:
            self._is_hurrying = True
            self.set_timer(_CATCH_UP_S, self._hurry)

    async def _hurry(self) -> None:
        """Come again before it is time, one at a time."""
        self._is_hurrying = False
        await self._tick()

    def _show(self) -> None:
        watch = self._watch
        if watch is None or self._attached is None or not watch.is_there:
            return
        held = ["display held"] if self._is_held else []
        watch.show(self._attached.view(), ", ".join(held + self._attached.notes()))

    def _fatal_error(self) -> None:
        """Leave the screen as it was found; the command tells what failed first."""
        self.crash = self.crash or sys.exc_info()[1] or self._exception
        self._close_messages_no_wait()


def run_app(
    run_dir: RunDir | None,
    *,
    is_readonly: bool = False,
    theme: str | None = None,
    is_ascii: bool = False,
    has_mouse: bool = True,
    runs: Path | None = None,
    config: Path | None = None,
) -> int:
    """Show the dashboard until it is left; return the exit code.

    Raises:
        BaseException: what went wrong, after the terminal was restored.
    """
    look = appearance(
        os.environ,
        theme=theme or (read_theme(config) if config else None),
        ascii_only=is_ascii,
        encoding=getattr(sys.stdout, "encoding", None),
    )
    if look.glyphs.ascii_only:
        ScrollBar.renderer = PlainScrollBar
    app = OpsdashApp(run_dir, look, is_readonly=is_readonly, runs=runs, config=config)
    app.collector.begin()
    sys.setswitchinterval(_SWITCH_S)
    code = app.run(mouse=has_mouse)
    if app.crash is not None:
        raise app.crash
    return code or 0
