"""VerdictLine: how the run is, in one word with its mark, and why.

The first thing that is read. It grows to a few lines rather than hide a reason.
"""

from typing import ClassVar

from opsdash.glyphs import Glyphs, glyphs_of
from opsdash.widgets.lines import LineWidget
from opsdash.widgets.spans import Line, Span, wrap

STATE_TONES = {
    "healthy": "ok",
    "degraded": "warn",
    "dead": "bad",
    "blind": "blind",
    "finished": "accent",
}
"""The states of a run, each with its tone."""


def state_mark(state: str, glyphs: Glyphs) -> str:
    """Return the mark of a state; that of `blind` for one that is not known."""
    marks = {
        "healthy": glyphs.healthy,
        "degraded": glyphs.degraded,
        "dead": glyphs.dead,
        "finished": glyphs.finished,
    }
    return marks.get(state, glyphs.blind)


class VerdictLine(LineWidget):
    """A mark, the state as a word, and the reasons."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {"tone--blind"}
    DEFAULT_CSS = """
    VerdictLine {
        max-height: 4;
        & > .tone--blind { color: $text-secondary; text-style: bold; }
    }
    """

    def __init__(
        self,
        *,
        id: str | None = None,  # noqa: A002 - Textual's name for it
        classes: str | None = None,
    ) -> None:
        super().__init__(id=id, classes=classes)
        self.state = "blind"
        self.text = "nothing was read yet"

    def show(self, state: str, text: str) -> None:
        """Replace the verdict; `text` says in words what the state means here."""
        self.state, self.text = state, text
        self.changed()

    def lines(self, width: int, height: int) -> list[Line]:  # noqa: ARG002 - as high as it needs
        """Return the state and its reasons, under each other if need be."""
        tone = STATE_TONES.get(self.state, "blind")
        head = f"{state_mark(self.state, glyphs_of(self.app))} {self.state} "
        room = width - len(head)
        if room < 12:
            rest = [(Span(text),) for text in wrap(self.text, width)]
            return [(Span(head, tone),), *rest]
        first, *more = wrap(self.text, room)
        indent = " " * len(head)
        return [
            (Span(head, tone), Span(first)),
            *((Span(indent), Span(text)) for text in more),
        ]
