"""ThinScreen: send the cells that changed, not the whole line up to them.

Textual 8 repaints a changed region from the left edge of its widget (the spans
in `ChopsUpdate.render_segments` are cropped at their right only), which for a
chart's newest column is the whole row. Cropping both sides is what brings a
live screen below the byte budget of a thin line. The compositor is private to
Textual: where it differs from what is known here, the screen behaves as usual.
"""

from typing import TypeVar

from rich.console import Console
from rich.control import Control
from textual._compositor import ChopsUpdate, Compositor
from textual.reactive import Reactive
from textual.screen import Screen
from textual.timer import Timer
from textual.widget import Widget

Result = TypeVar("Result")
_PAINT_S = 1 / 250
"""From one paint to the next at least; nothing is painted that did not change."""


class ThinUpdate(ChopsUpdate):
    """An update that is cropped on both sides."""

    def render_segments(self, console: Console) -> str:
        """Return what moves to each changed span and writes it."""
        sequences: list[str] = []
        for y, start, stop in self.spans:
            chops = zip(self.chop_ends[y], self.chops[y].items(), strict=True)
            for end, (x, strip) in chops:
                if strip is None or x >= stop or end <= start:
                    continue
                left = max(x, start)
                part = strip.crop(left - x, min(end, stop) - x)
                sequences.append(Control.move_to(left, y).segment.text)
                sequences.append(part.render(console))
        return "".join(sequences)


class ThinCompositor(Compositor):
    """A compositor whose partial updates are thin."""

    def render_partial_update(self) -> ChopsUpdate | None:
        """Return what changed since the last update, or None."""
        update = super().render_partial_update()
        if update is None:
            return None
        return ThinUpdate(update.chops, update.spans, update.chop_ends)


class ThinScreen(Screen[Result]):
    """A screen whose partial updates are thin; otherwise a `Screen`."""

    # Who gets or loses the focus repaints itself; Textual's screen would repaint
    # everything once more, 10 to 17 kB a pane.
    focused: Reactive[Widget | None] = Reactive(None, repaint=False)

    def __init__(
        self,
        name: str | None = None,
        id: str | None = None,  # noqa: A002 - Textual's name for it
        classes: str | None = None,
    ) -> None:
        super().__init__(name, id, classes)
        self._compositor = ThinCompositor()
        self._painting: Timer | None = None

    @property
    def _update_timer(self) -> Timer:
        """What paints, a moment after something changed.

        Textual's own ticks 60 times a second and skips the tick after one that
        painted: a key that follows a picture would wait for up to 33 ms.
        """
        if self._painting is None:
            self._painting = self.set_interval(
                _PAINT_S, self._on_timer_update, name="painting", pause=True
            )
        return self._painting
