"""PlanDialog: what an action will do, before it does it.

Nothing acts without its plan having been shown, whole: the command is wrapped
and never cut. It can be copied and run elsewhere, also where the dashboard
itself must not act. A destructive plan asks for a name to be typed.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Input

from opsdash.glyphs import glyphs_of
from opsdash.widgets.facts import Fact, Facts
from opsdash.widgets.lines import LineWidget
from opsdash.widgets.spans import Line, Span, wrap


@dataclass(frozen=True)
class Plan:
    """What is shown before something is done."""

    title: str
    """The action in words: `resume from step-00001200`."""
    facts: tuple[Fact, ...]
    """What is read, written and lost, and who must agree."""
    command: str
    """The equivalent shell command."""
    confirm_name: str = ""
    """If given, only typing it confirms."""
    why_not: str = ""
    """If given, the dashboard must not do it here: the plan can only be copied."""


class PlanDialog(ModalScreen[bool]):
    """A plan; dismissed with whether it shall be done."""

    DEFAULT_CSS = """
    PlanDialog {
        align: center middle;
        & > Vertical {
            width: 90%;
            max-width: 100;
            height: auto;
            max-height: 100%;
            border: solid $primary;
            background: $background;
            padding: 0 1;
        }
        & > Vertical > VerticalScroll {
            height: auto;
            max-height: 100%;
            background: $background;
            scrollbar-size: 0 0;
        }
        #answer { height: auto; dock: bottom; background: $background; }
        & > .-ascii { border: ascii $primary; }
        Input {
            height: 1;
            border: none;
            padding: 0;
            background: $panel;
            &:focus { border: none; }
        }
    }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "answer(False)", "Cancel"),
        Binding("enter", "confirm", "Confirm"),
        Binding("c,ctrl+y", "copy", "Copy the command"),
        Binding("up,k", "scroll(-1)", "Up", show=False),
        Binding("down,j", "scroll(1)", "Down", show=False),
    ]

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self.plan = plan
        self._end_seen = False

    def compose(self) -> ComposeResult:
        """Lay out title, plan, command and what can be done now."""
        plan = self.plan
        ascii_only = glyphs_of(self.app).ascii_only
        with Vertical(classes="-ascii" if ascii_only else ""):
            with VerticalScroll(can_focus=False):
                yield _Words([Span(plan.title, "title")])
                yield Facts(plan.facts)
                yield _Words([Span("")])
                yield _Words([Span(plan.command, "accent")], id="command")
            with Vertical(id="answer"):
                if plan.why_not:
                    yield _Words([Span(plan.why_not, "warn")])
                elif plan.confirm_name:
                    ask = f"type {plan.confirm_name} to confirm:"
                    yield _Words([Span(ask, "warn")])
                    yield self._name_input()
                yield _Words([Span(self._hint(), "dim")], id="hint")

    def on_mount(self) -> None:
        """Say when there is more than the screen shows, until it was seen."""
        scroll = self.query_one(VerticalScroll)
        self.watch(scroll, "scroll_y", self._see_end, init=False)
        self.call_after_refresh(self._say_if_longer)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Confirm if the name is right."""
        event.stop()
        self.action_confirm()

    def action_confirm(self) -> None:
        """Answer yes, if the plan may be carried out and its name was typed."""
        if self.plan.why_not or not self._is_read():
            return
        name = self.plan.confirm_name
        if not name or self.query_one(Input).value.strip() == name:
            self.dismiss(result=True)
        else:
            self._say(f"that is not {name}")

    def action_answer(self, yes: bool) -> None:  # noqa: FBT001 - an action
        """Answer."""
        self.dismiss(yes)

    def action_copy(self) -> None:
        """Copy the command through the terminal (OSC 52), also over ssh."""
        self.app.copy_to_clipboard(self.plan.command)
        self._say("copied, if the terminal allows it")

    def action_scroll(self, lines: int) -> None:
        """Scroll a plan that is longer than the screen."""
        self.query_one(VerticalScroll).scroll_relative(y=lines, animate=False)

    def _is_read(self) -> bool:
        """Whether the end of the plan was in sight; if not, show more of it."""
        scroll = self.query_one(VerticalScroll)
        if self._end_seen or not scroll.max_scroll_y:
            return True
        scroll.scroll_page_down(animate=False)
        self._say("the plan goes on: read it to its end")
        return False

    def _see_end(self, scroll_y: float) -> None:
        if (
            not self._end_seen
            and scroll_y >= self.query_one(VerticalScroll).max_scroll_y
        ):
            self._end_seen = True
            self._say(self._hint())

    def _name_input(self) -> Input:
        name = Input(compact=True, select_on_focus=False, max_length=200)
        name.cursor_blink = False  # a blink is two repaints a second, over ssh
        return name

    def _say_if_longer(self) -> None:
        if self.query_one(VerticalScroll).max_scroll_y:
            self._say("the plan goes on: down reads on")

    def _hint(self) -> str:
        if self.plan.why_not:
            return "c copies the command, escape closes"
        copy = "ctrl+y copies" if self.plan.confirm_name else "c copies"
        return f"enter confirms, escape cancels, {copy} the command"

    def _say(self, note: str) -> None:
        self.query_one("#hint", _Words).show([Span(note, "strong")])


class _Words(LineWidget):
    """Text that is wrapped and never cut."""

    def __init__(
        self,
        spans: Iterable[Span],
        *,
        id: str | None = None,  # noqa: A002 - Textual's name for it
    ) -> None:
        super().__init__(id=id)
        self.spans = tuple(spans)

    def show(self, spans: Iterable[Span]) -> None:
        self.spans = tuple(spans)
        self.changed()

    def lines(self, width: int, height: int) -> list[Line]:  # noqa: ARG002 - as high as it needs
        return [
            (Span(part, tone),)
            for text, tone in self.spans
            for part in wrap(text, width)
        ]
