"""KeyLine: the keys that work here, in one line; help and leaving are always there.

It asks the screen which bindings are active, so it cannot be out of date. What
does not fit is left out whole: `?` lists everything.
"""

from collections.abc import Callable
from typing import NamedTuple

from textual import events
from textual.screen import Screen

from opsdash.widgets.lines import LineWidget
from opsdash.widgets.spans import Line, Span

_ALWAYS = ("help", "quit", "leave", "dismiss")
"""Actions that stand at the right, whatever else there is."""
_NAMES = {
    "question_mark": "?",
    "slash": "/",
    "equals_sign": "=",
    "plus": "+",
    "minus": "-",
    "escape": "esc",
}


class _Key(NamedTuple):
    key: str
    """As Textual names it."""
    words: str

    @property
    def length(self) -> int:
        return len(key_name(self.key)) + len(self.words) + 3


def key_name(key: str) -> str:
    """Return a key as it stands on a keyboard; ASCII, so that it can be shown."""
    return _NAMES.get(key, key)


class KeyLine(LineWidget):
    """One line at the bottom; a click on a key presses it."""

    DEFAULT_CSS = """
    KeyLine {
        height: 1;
        background: $panel;
        & > .tone--key { color: $footer-key-foreground; text-style: bold; }
    }
    """

    def __init__(
        self,
        is_offered: Callable[[str], bool] = lambda _: True,
        words_of: Callable[[str], str | None] = lambda _: None,
    ) -> None:
        """Make the line.

        Args:
            is_offered: Asked for each action; a key that is not offered works unseen.
            words_of: What an action does now; None: what its binding says.
        """
        super().__init__()
        self._is_offered, self._words_of = is_offered, words_of
        self._ends: list[tuple[int, str]] = []

    def on_mount(self) -> None:
        """Follow the focus."""
        self.screen.bindings_updated_signal.subscribe(self, self._bindings_changed)

    def on_unmount(self) -> None:
        """Follow it no more."""
        self.screen.bindings_updated_signal.unsubscribe(self)

    def lines(self, width: int, height: int) -> list[Line]:  # noqa: ARG002 - one line
        """Return the keys, most specific first."""
        left, right = self._keys()
        room = width - sum(key.length for key in right)
        spans: list[Span] = []
        self._ends = []
        for key in left:
            if key.length <= room:
                room -= key.length
                self._put(spans, key)
        spans.append(Span(" " * max(0, room)))
        for key in right:
            self._put(spans, key)
        return [tuple(spans)]

    def on_click(self, event: events.Click) -> None:
        """Press the key under the mouse."""
        for end, key in self._ends:
            if event.x < end:
                self.app.simulate_key(key)
                return

    def _bindings_changed(self, screen: Screen[object]) -> None:
        if self.is_attached and screen is self.screen:
            self.changed()

    def _keys(self) -> tuple[list[_Key], list[_Key]]:
        """Return what is shown: most of it, and what stands at the right."""
        left: dict[str, _Key] = {}
        right: dict[str, _Key] = {}
        for active in self.screen.active_bindings.values():
            binding = active.binding
            if not (binding.show and active.enabled and binding.description):
                continue
            name = binding.action.partition("(")[0].rpartition(".")[2]
            if not self._is_offered(name):
                continue
            side = right if name in _ALWAYS else left
            words = self._words_of(name) or binding.description
            side.setdefault(binding.action, _Key(binding.key, words))
        return list(left.values()), list(right.values())

    def _put(self, spans: list[Span], key: _Key) -> None:
        spans += [Span(f" {key_name(key.key)} ", "key"), Span(f"{key.words} ")]
        self._ends.append((sum(len(span.text) for span in spans), key.key))
