"""PaneBar: which panes there are, which one is shown, and how reading goes."""

from collections.abc import Sequence

from textual import events
from textual.message import Message

from opsdash.widgets.lines import LineWidget
from opsdash.widgets.spans import Line, Span


class PaneBar(LineWidget):
    """One line; a click on a name goes there."""

    DEFAULT_CSS = """
    PaneBar {
        height: 1;
        & > .tone--here { color: $text-primary; text-style: bold reverse; }
        &:ansi > .tone--here { text-style: bold reverse; }
    }
    """

    class Chosen(Message):
        """The operator clicked a pane's name."""

        def __init__(self, index: int) -> None:
            super().__init__()
            self.index = index

    def __init__(self, titles: Sequence[str]) -> None:
        super().__init__()
        self.titles = tuple(titles)
        self.shown = 0
        self.note = ""
        self.is_note_urgent = False
        self._ends: list[int] = []

    def show(self, shown: int, note: str, *, is_urgent: bool = False) -> None:
        """Say which pane is shown; `note` stands at the right, whole if urgent."""
        self.shown, self.note, self.is_note_urgent = shown, note, is_urgent
        self.changed()

    def lines(self, width: int, height: int) -> list[Line]:  # noqa: ARG002 - one line
        """Return the names; where they do not fit, only the shown one in full."""
        full = [f"{i} {title} " for i, title in enumerate(self.titles, start=1)]
        room = width - (len(self.note) if self.is_note_urgent else 0)
        fits = sum(map(len, full)) <= room
        spans: list[Span] = []
        self._ends = []
        for index, text in enumerate(full):
            is_here = index == self.shown
            # A word of four letters is enough to know the pane by.
            words = text if fits or is_here else f"{text[:6].rstrip()} "
            spans.append(Span(words[:-1], "here" if is_here else "dim"))
            spans.append(Span(" "))
            self._ends.append(sum(len(span.text) for span in spans))
        room = width - self._ends[-1]
        note = _tail(self.note, room - 1)
        return [(*spans, Span(note.rjust(max(0, room)), "dim"))]

    def on_click(self, event: events.Click) -> None:
        """Go to the pane whose name was clicked."""
        for index, end in enumerate(self._ends):
            if event.x < end:
                self.post_message(self.Chosen(index))
                return


def _tail(path: str, room: int) -> str:
    """Return a path, or its last part, where there is room for it whole."""
    names = (path, path.rpartition("/")[2])
    return next((name for name in names if len(name) <= room), "")
