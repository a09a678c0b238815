"""The Python stacks of one process, as it wrote them, newest first."""

import contextlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.message import Message
from textual.screen import ModalScreen

from agent.rundir.layout import RunDir
from opsdash.feed.stacks import StackDump, read_newest_dumps
from opsdash.operations.beside import Beside
from opsdash.screens.pane import View
from opsdash.screens.stack_words import why_no_stacks
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

    class Answered(Message):
        """The dumps were read."""

    def __init__(
        self,
        stem: str,
        read: Callable[[], Sequence[StackDump]],
        *,
        attempt: int,
        why_none: Sequence[str],
    ) -> None:
        """Show the dumps of a process.

        Args:
            stem: Of the process.
            read: Returns the dumps, newest first; called in another thread.
            attempt: The newest; dumps of an earlier one say which.
            why_none: What is told, line by line, if it wrote none.
        """
        super().__init__()
        self._stem, self._read = stem, read
        self._dumps: tuple[StackDump, ...] = ()
        self._beside = Beside("opsdash-stacks", self._answered)
        self._attempt, self._why_none = attempt, tuple(why_none)

    def compose(self) -> ComposeResult:
        """Lay out the lines."""
        with Vertical(classes="boxed"):
            yield VirtualTable(
                _COLUMNS,
                empty=f"reading the stacks of {self._stem}",
            )
            yield KeyLine(self._is_offered)

    def on_mount(self) -> None:
        """Begin to read."""
        self._beside.ask(self._stem, self._read)
        if self._beside.wait(self._stem):
            self._take()

    def on_unmount(self) -> None:
        """Read nothing more."""
        self._beside.stop()

    def on_stacks_screen_answered(self) -> None:
        """Show what was read."""
        self._take()

    def action_copy(self) -> None:
        """Copy the newest dump through the terminal (OSC 52)."""
        if self._dumps:
            self.app.copy_to_clipboard("\n".join(_lines(self._dumps[0])))
            self.notify("stacks copied, if the terminal allows it")

    def _answered(self) -> None:
        """Say so from the reading thread; there may be no loop to hear it any more."""
        with contextlib.suppress(RuntimeError):
            self.post_message(self.Answered())

    def _take(self) -> None:
        for answer in self._beside.take().values():
            self._dumps = tuple(answer) if isinstance(answer, list) else ()
            table = self.query_one(VirtualTable)
            table.show(FixedRows(enumerate(self._rows())))
            self.query_one(KeyLine).changed()

    def _is_offered(self, action: str) -> bool:
        return action != "select" and (bool(self._dumps) or action != "copy")

    def _rows(self) -> list[tuple[Cell, ...]]:
        if not self._dumps:
            lines = (f"{self._stem} wrote no stacks", *self._why_none)
            return [(Cell(line, "dim"),) for line in lines]
        rows: list[tuple[Cell, ...]] = []
        for dump in self._dumps:
            stamp = dump.stamp or "made by a signal"
            if dump.attempt != self._attempt:
                stamp = f"attempt {dump.attempt}, {stamp}"
            rows.append((Cell(f"{self._stem}  {stamp}", "strong"),))
            rows += [(Cell(line, _tone(line)),) for line in _lines(dump)]
        return rows


def stacks_of(view: View, stem: str, *, may_act: bool) -> StacksScreen:
    """Return what shows the stacks of one process of a run."""
    directory = view.run.directory
    run, attempt = RunDir(Path(directory.path)), directory.newest_attempt
    return StacksScreen(
        stem,
        partial(read_newest_dumps, run, attempt, stem),
        attempt=attempt,
        why_none=why_no_stacks(view, stem, may_act=may_act),
    )


def _lines(dump: StackDump) -> list[str]:
    """Return what the process wrote, the thread that trains before the agent's."""
    return [line for thread in dump.threads() for line in thread]


def _tone(line: str) -> str:
    return "" if line.startswith(" ") else "accent"
