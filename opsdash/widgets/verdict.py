"""VerdictLine: how the run is, in one word with its mark, and why.

The first thing that is read. It grows to a few lines rather than hide a reason.
"""

from opsdash.glyphs import Glyphs, glyphs_of
from opsdash.widgets.lines import LineWidget
from opsdash.widgets.spans import Line, Span, fit, wrap

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


_MOST_LINES = 6


class VerdictLine(LineWidget):
    """A mark, the state as a word, and the reasons."""

    DEFAULT_CSS = """
    VerdictLine {
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
        glyphs = glyphs_of(self.app)
        tone = STATE_TONES.get(self.state, "blind")
        head = f"{state_mark(self.state, glyphs)} {self.state} "
        room = width - len(head)
        if room < 12:
            below = wrap(self.text, width)
            lines: list[Line] = [(Span(head, tone),), *((Span(t),) for t in below)]
        else:
            first, *more = wrap(self.text, room)
            indent = Span(" " * len(head))
            lines = [
                (Span(head, tone), Span(first)),
                *((indent, Span(t)) for t in more),
            ]
        if len(lines) > _MOST_LINES:
            *before, last = lines[_MOST_LINES - 1]
            room = width - sum(len(span.text) for span in before)
            cut = fit(f"{last.text}{glyphs.ellipsis}", room, ellipsis=glyphs.ellipsis)
            lines[_MOST_LINES - 1 :] = [(*before, Span(cut))]
        return lines
