"""A minimal app around widgets, that notes what they tell it."""

from opsdash.glyphs import ASCII, UNICODE
from opsdash.theme import THEMES
from tests.wire import WiredApp


class WidgetApp(WiredApp):
    """Shows widgets under each other in one theme."""

    def __init__(self, *widgets, ascii_only=False, theme="dark", screen=None):
        super().__init__(ansi_color=True if theme == "mono" else None)
        self.glyphs = ASCII if ascii_only else UNICODE
        self.told = []
        self._widgets = widgets
        self._screen_class = screen
        for each in THEMES.values():
            self.register_theme(each)
        self.theme = theme

    def get_default_screen(self):
        if self._screen_class is None:
            return super().get_default_screen()
        return self._screen_class(id="_default")

    def compose(self):
        yield from self._widgets

    async def _dispatch_message(self, message):
        if type(message).__module__.startswith("opsdash."):
            self.told.append(message)
        await super()._dispatch_message(message)

    def told_of(self, kind):
        """The messages of one kind that arrived, oldest first."""
        return [message for message in self.told if isinstance(message, kind)]
