"""Ask for lines of text, such as the name of a file."""

import contextlib
from pathlib import Path
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Input

from opsdash.widgets.facts import Fact, Facts


class AskScreen(ModalScreen[list[str] | None]):
    """Fields under each other; dismissed with what stands in them, or None."""

    DEFAULT_CSS = """
    AskScreen {
        align: center middle;
        & > Vertical {
            width: 80%;
            max-width: 90;
            height: auto;
            border: solid $primary;
            background: $background;
            padding: 0 1;
        }
        & Facts { height: auto; }
        & Input {
            height: 1;
            border: none;
            padding: 0;
            background: $panel;
            &:focus { border: none; }
        }
    }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "dismiss(None)", "Cancel"),
        Binding("up,shift+tab", "app.focus_previous", "Up", show=False),
        Binding("down,tab", "app.focus_next", "Down", show=False),
    ]

    def __init__(self, title: str, fields: dict[str, str]) -> None:
        """Ask for `fields`: what each one is, and what stands in it at first."""
        super().__init__()
        self._title = title
        self._fields = dict(fields)

    def compose(self) -> ComposeResult:
        """Lay out the fields."""
        with Vertical(classes="boxed"):
            yield Facts([Fact(self._title)])
            for label, value in self._fields.items():
                yield Facts([Fact(label)])
                field = Input(value, compact=True, select_on_focus=False)
                field.cursor_blink = False  # a blink is two repaints a second
                yield field
            yield Facts([Fact("enter", "goes on"), Fact("esc", "cancels")])

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Answer with everything that was typed."""
        event.stop()
        self.dismiss([field.value.strip() for field in self.query(Input)])


def path_of(text: str) -> Path:
    """Return the file that was typed; `~` is a home only where somebody has one."""
    with contextlib.suppress(RuntimeError):
        return Path(text).expanduser()
    return Path(text)
