"""The characters that screens and reports draw with, in Unicode and in ASCII.

Every glyph is one cell wide. The two sets have the same fields, so whatever
draws with one draws with the other; nothing here knows a terminal.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable


@dataclass(frozen=True)
class Glyphs:
    """The characters that the widgets draw with, beside letters and digits."""

    ascii_only: bool
    """No character beyond ASCII: no braille, no box drawing."""
    ellipsis: str
    """Ends a text that was cut."""
    healthy: str
    degraded: str
    dead: str
    blind: str
    finished: str
    ascending: str
    descending: str
    marked: str
    """In front of a row that the operator marked."""
    left: str
    """There is more to the left."""
    right: str
    thumb: str
    """The part of a scroll bar that stands for what is shown."""
    track: str
    done: str
    """The part of a progress bar that is behind."""
    to_do: str
    heat: str
    """Six densities, from nothing to full."""
    bars: str
    """Eight heights, from lowest to full."""
    heads: str
    """One per series of a chart: its mark in the legend and at its last point."""
    rule: str
    """A vertical line at a mark in a chart."""
    cursor: str
    """A vertical line at the inspected step."""
    axis: str
    tick: str
    corner: str
    floor: str
    """The horizontal axis."""
    dot: str
    """Between the parts of one line."""


UNICODE = Glyphs(
    ascii_only=False,
    ellipsis="…",
    healthy="●",
    degraded="▲",
    dead="✖",
    blind="◌",
    finished="✔",
    ascending="▲",
    descending="▼",
    marked="●",
    left="◀",
    right="▶",
    thumb="█",
    track="│",
    done="█",
    to_do="░",
    heat=" .░▒▓█",
    bars="▁▂▃▄▅▆▇█",
    heads="●▲■◆▼○",
    rule="┊",
    cursor="│",
    axis="│",
    tick="┤",
    corner="└",
    floor="─",
    dot="·",
)

ASCII = Glyphs(
    ascii_only=True,
    ellipsis="~",
    healthy="*",
    degraded="!",
    dead="X",
    blind="?",
    finished="=",
    ascending="^",
    descending="v",
    marked="*",
    left="<",
    right=">",
    thumb="#",
    track="|",
    done="#",
    to_do=".",
    heat=" .:=%#",
    bars="_.,-=+*#",
    heads="*+ox#@",
    rule=":",
    cursor="|",
    axis="|",
    tick="+",
    corner="+",
    floor="-",
    dot="-",
)


@runtime_checkable
class HasGlyphs(Protocol):
    """An app that was told which glyphs its terminal shows."""

    glyphs: Glyphs


def glyphs_of(app: object) -> Glyphs:
    """Return the glyphs of a widget's app; `UNICODE` where it does not say.

    Widgets ask when they draw, so that `--ascii` cannot be forgotten in one.
    """
    return app.glyphs if isinstance(app, HasGlyphs) else UNICODE
