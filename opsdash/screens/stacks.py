"""The Python stacks of one process, as it wrote them, newest first."""

from collections.abc import Sequence
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen

from opsdash.feed.stacks import StackDump
from opsdash.widgets.key_line import KeyLine
from opsdash.widgets.rows import Cell, Column, FixedRows
from opsdash.widgets.table import VirtualTable

_COLUMNS = (Column("", 20, flex=1, sortable=False),)


class StacksScreen(ModalScreen[None]):
    """A list of lines that can be walked and copied."""

    DEFAULT_CSS = """
    StacksScreen {
        align: center middle;
        & > Vertical {
            width: 96%;
            height: 90%;
            border: solid $primary;
            background: $background;
        }
    }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q", "dismiss", "Close"),
        Binding("c", "copy", "Copy the newest"),
        Binding("question_mark", "app.help", "Help"),
    ]

    def __init__(
        self, stem: str, dumps: Sequence[StackDump], *, why_none: str = ""
    ) -> None:
        """Show the dumps of a process; `why_none`: what was told if it wrote none."""
        super().__init__()
        self._stem = stem
        self._dumps = tuple(dumps)
        self._why_none = why_none or "K, when this is closed, asks for them"

    def compose(self) -> ComposeResult:
        """Lay out the lines."""
        with Vertical(classes="boxed"):
            yield VirtualTable(
                _COLUMNS,
                FixedRows(enumerate(self._rows())),
                empty=f"{self._stem} wrote no stacks: {self._why_none}",
            )
            yield KeyLine(lambda action: action != "select")

    def action_copy(self) -> None:
        """Copy the newest dump through the terminal (OSC 52)."""
        if self._dumps:
            self.app.copy_to_clipboard("\n".join(self._dumps[0].lines))
            self.notify("stacks copied, if the terminal allows it")

    def _rows(self) -> list[tuple[Cell, ...]]:
        rows: list[tuple[Cell, ...]] = []
        for dump in self._dumps:
            stamp = dump.stamp or "made by a signal"
            rows.append((Cell(f"{self._stem}  {stamp}", "strong"),))
            rows += [(Cell(line, _tone(line)),) for line in dump.lines]
        return rows


def _tone(line: str) -> str:
    return "" if line.startswith(" ") else "accent"
