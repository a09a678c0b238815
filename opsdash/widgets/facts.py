"""Facts: labels and values under each other, for what has details.

Values are wrapped, never cut: a digest or a path is there to be read whole.
"""

from collections.abc import Iterable
from typing import NamedTuple

from rich.cells import cell_len

from opsdash.units import visible
from opsdash.widgets.lines import LineWidget
from opsdash.widgets.spans import Line, Span, fit, wrap


class Fact(NamedTuple):
    """One line: what, and what it is. A fact without a value is a heading."""

    label: str
    value: str = ""
    tone: str = ""
    """Of the value: `ok`, `warn`, `bad`, `dim`, `accent` or `strong`."""


class Facts(LineWidget):
    """Aligned labels and values."""

    def __init__(
        self,
        facts: Iterable[Fact] = (),
        *,
        id: str | None = None,  # noqa: A002 - Textual's name for it
        classes: str | None = None,
    ) -> None:
        super().__init__(id=id, classes=classes)
        self.facts = tuple(facts)

    def show(self, facts: Iterable[Fact]) -> None:
        """Replace the facts."""
        self.facts = tuple(facts)
        self.changed()

    def lines(self, width: int, height: int) -> list[Line]:  # noqa: ARG002 - as high as it needs
        """Return a line per fact, more where its value needs them."""
        return fact_lines(self.facts, width)


def fact_lines(facts: Iterable[Fact], width: int) -> list[Line]:
    """Set facts in `width` cells; labels take a third of it at most."""
    facts = tuple(facts)
    longest = max((cell_len(visible(f.label)) for f in facts if f.value), default=0)
    margin = min(longest, max(4, width // 3))
    lines: list[Line] = []
    for label, value, tone in facts:
        if not value:
            lines.append((Span(label, "title"),))
            continue
        first, *more = wrap(value, max(1, width - margin - 2))
        lines.append((Span(fit(label, margin) + "  ", "dim"), Span(first, tone)))
        lines.extend((Span(" " * (margin + 2)), Span(text, tone)) for text in more)
    return lines
