"""Ask for lines of text, such as the name of a file."""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Input

from agent.rundir.errors import RunDirError
from opsdash.widgets.facts import Fact, Facts

_KEYS = (Fact("enter", "goes on"), Fact("esc", "cancels"))


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

    def __init__(
        self,
        title: str,
        fields: dict[str, str],
        *,
        check: Callable[[list[str]], object] = len,
    ) -> None:
        """Ask for lines of text.

        Args:
            title: What for.
            fields: What each one is, and what stands in it at first.
            check: Called with what was typed; a `ValueError` or `RunDirError` is
                said, and what was typed stays.
        """
        super().__init__()
        self._check = check
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
            yield Facts(_KEYS, id="said")

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Answer with everything that was typed."""
        event.stop()
        typed = [field.value.strip() for field in self.query(Input)]
        try:
            self._check(typed)
        except (ValueError, RunDirError) as error:
            self.query_one("#said", Facts).show([Fact("no", str(error), "bad"), *_KEYS])
        else:
            self.dismiss(typed)


def path_of(text: str) -> Path:
    """Return the file that was typed; `~` is a home only where somebody has one."""
    with contextlib.suppress(RuntimeError):
        return Path(text).expanduser()
    return Path(text)
