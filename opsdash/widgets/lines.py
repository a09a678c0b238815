"""A widget made of whole lines that repaints only the cells that changed.

A subclass says in `lines` what it shows now, as spans of text with the name of
a tone; it calls `changed` after its data did. Bytes over ssh are the scarce
thing: equal cells are never sent again. Text is data: whatever could act in a
terminal is spelt out here, once, for every widget.
"""

from collections.abc import Sequence

from rich.segment import Segment
from rich.style import Style
from textual.dom import DOMNode
from textual.geometry import Region, Size
from textual.strip import Strip
from textual.widget import Widget

from opsdash.glyphs import glyphs_of
from opsdash.units import visible
from opsdash.widgets.spans import Line, Span, changed_cells, in_ascii


class LineWidget(Widget):
    """Draws what `lines` returns; data in, nothing out."""

    DEFAULT_CSS = """
    LineWidget {
        width: 1fr;
        height: auto;
        background: $background;
        color: $foreground;
        & > .tone--ok { color: $text-success; }
        & > .tone--warn { color: $text-warning; }
        & > .tone--bad { color: $text-error; text-style: bold; }
        & > .tone--dim { color: $text-muted; }
        & > .tone--accent { color: $text-primary; }
        & > .tone--strong { text-style: bold; }
        & > .tone--title { text-style: bold; }
        &:focus > .tone--title { color: $text-primary; text-style: bold underline; }
        & > .tone--header {
            background: $panel;
            color: $text-muted;
            text-style: bold;
        }
        &:focus > .tone--header { color: $text-primary; }
        & > .tone--cursor {
            background: $block-cursor-background;
            color: $block-cursor-foreground;
            text-style: $block-cursor-text-style;
        }
        & > .tone--blurred {
            background: $block-cursor-blurred-background;
            color: $foreground;
            text-style: $block-cursor-blurred-text-style;
        }
        &:ansi {
            & > .tone--warn { color: $text-warning; text-style: bold; }
            & > .tone--dim { color: ansi_default; text-style: dim; }
            & > .tone--header { color: ansi_default; text-style: bold underline; }
        }
    }
    """

    def __init__(
        self,
        *,
        id: str | None = None,  # noqa: A002 - Textual's name for it
        classes: str | None = None,
    ) -> None:
        super().__init__(id=id, classes=classes)
        self._drawn: list[Line] | None = None
        self._drawn_size = Size(0, 0)
        self._strips: dict[int, Strip] = {}
        self._styles_by_tone: dict[str, Style] = {}

    def lines(self, width: int, height: int) -> Sequence[Line]:
        """Return what to show in `width` x `height` cells, from the top.

        Fewer lines leave the rest blank; more, and longer ones, are cut. For a
        widget of automatic height the number of lines is its height, and
        `height` is that of the screen.
        """
        raise NotImplementedError

    def changed(self) -> None:
        """Show what `lines` returns now, sending only the cells that differ."""
        if self._drawn is None or self._drawn_size != self.size:
            self.refresh(layout=self._has_automatic_height)
            return
        old, new = self._drawn, self._draw()
        if self._has_automatic_height and len(old) != len(new):
            self._forget()
            self.refresh(layout=True)
            return
        self._drawn = new
        if dirty := self._dirty_regions_between(old, new):
            self.refresh(*dirty)

    def tone_style(self, tone: str) -> Style:
        """Return the style of a tone: that of a child of the class `tone--<tone>`.

        Textual would apply every rule to every component class of a widget whenever
        that gets or loses the focus, 2 ms before a key is answered. Here a tone is
        looked up when it is drawn, and most widgets draw few.
        """
        style = self._styles_by_tone.get(tone)
        if style is None:
            style = self._applied(tone) if tone else self.rich_style
            self._styles_by_tone[tone] = style
        return style

    def _applied(self, tone: str) -> Style:
        node = DOMNode(classes=f"tone--{tone}")
        node._attach(self)  # noqa: SLF001 - what Textual does with a component class
        self.app.stylesheet.apply(node, animate=False)
        return node.styles.rich_style

    def get_content_height(
        self,
        container: Size,  # noqa: ARG002 - Textual's signature
        viewport: Size,
        width: int,
    ) -> int:
        """Return the number of lines, for an automatic height."""
        return len(self.lines(width, viewport.height))

    def watch_has_focus(self, has_focus: bool) -> None:  # noqa: FBT001 - Textual's signature
        """Forget what was drawn: some tones depend on the focus."""
        super().watch_has_focus(has_focus)
        self._forget()

    def notify_style_update(self) -> None:
        """Forget what was drawn in the old style."""
        super().notify_style_update()
        self._forget()

    def render_line(self, y: int) -> Strip:
        """Return one line of the widget's content."""
        if self._drawn is None or self._drawn_size != self.size:
            self._forget()
            self._drawn, self._drawn_size = self._draw(), self.size
        strip = self._strips.get(y)
        if strip is None:
            line = self._drawn[y] if y < len(self._drawn) else ()
            strip = self._strips[y] = self._strip(line)
        return strip

    @property
    def _has_automatic_height(self) -> bool:
        height = self.styles.height
        return height is not None and height.is_auto

    def _draw(self) -> list[Line]:
        width, height = self.size
        lines = self.lines(width, height)
        shown = lines if self._has_automatic_height else lines[:height]
        safe = in_ascii if glyphs_of(self.app).ascii_only else str
        return [
            tuple(Span(safe(visible(text)), tone) for text, tone in line)
            for line in shown
        ]

    def _dirty_regions_between(
        self, old: Sequence[Line], new: Sequence[Line]
    ) -> list[Region]:
        dirty: list[Region] = []
        for y in range(max(len(old), len(new))):
            before = old[y] if y < len(old) else ()
            after = new[y] if y < len(new) else ()
            if before == after:
                continue
            self._strips.pop(y, None)
            dirty.extend(
                Region(start, y, stop - start, 1)
                for start, stop in changed_cells(before, after)
            )
        return dirty

    def _strip(self, line: Line) -> Strip:
        segments = [Segment(text, self.tone_style(tone)) for text, tone in line if text]
        return Strip(segments).adjust_cell_length(self.size.width, self.tone_style(""))

    def _forget(self) -> None:
        self._drawn = None
        self._strips.clear()
        self._styles_by_tone.clear()
