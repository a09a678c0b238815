"""What an app sends to its terminal, recorded without one.

The terminal in memory shows whether partial updates add up to the screen that
the app believes it shows.
"""

import pyte
from textual._compositor import CompositorUpdate
from textual.app import App


class WiredApp(App):
    """An app whose updates reach a terminal in memory."""

    ENABLE_COMMAND_PALETTE = False
    CSS = "Screen { overflow: hidden; background: $background; }"

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.num_bytes = 0
        self.terminal = pyte.Screen(80, 24)
        self._stream = pyte.Stream(self.terminal)

    def _display(self, screen, renderable):
        super()._display(screen, renderable)
        if isinstance(renderable, CompositorUpdate):
            size = self.size
            if (self.terminal.columns, self.terminal.lines) != size:
                self.terminal.resize(lines=size.height, columns=size.width)
            text = renderable.render_segments(self.console)
            self.num_bytes += len(text.encode())
            self._stream.feed(text)

    def differing_lines(self):
        """Lines on which the terminal does not show what the app does."""
        strips = self.screen._compositor.render_strips()
        return [
            (shown, strip.text)
            for shown, strip in zip(self.terminal.display, strips, strict=True)
            if shown != strip.text
        ]
