"""The keys, generated from what is bound: the help cannot be out of date."""

from collections.abc import Iterable
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.dom import DOMNode
from textual.screen import ModalScreen

from opsdash.widgets.facts import Fact, Facts
from opsdash.widgets.key_line import key_name

_TITLES = {
    "OpsdashApp": "everywhere",
    "WatchScreen": "in this run",
    "VirtualTable": "in a list",
    "RecordTable": "in a list",
    "Input": "in this field",
}


class HelpScreen(ModalScreen[None]):
    """Keys of the focused widget, of its pane, and those that work everywhere."""

    DEFAULT_CSS = """
    HelpScreen {
        align: center middle;
        & > VerticalScroll {
            width: 64;
            max-width: 96%;
            height: auto;
            max-height: 96%;
            border: solid $primary;
            background: $background;
            padding: 0 1;
            scrollbar-size-vertical: 1;
        }
    }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,question_mark,q", "dismiss", "Close"),
        Binding("j", "scroll(1)", "Down", show=False),
        Binding("k", "scroll(-1)", "Up", show=False),
    ]

    def __init__(self, facts: Iterable[Fact]) -> None:
        super().__init__()
        self._facts = tuple(facts)

    def compose(self) -> ComposeResult:
        """Lay out the list."""
        with VerticalScroll(classes="boxed"):
            yield Facts(self._facts)

    def action_scroll(self, lines: int) -> None:
        """Read on, or back."""
        self.query_one(VerticalScroll).scroll_relative(y=lines, animate=False)


def key_facts(chain: Iterable[DOMNode]) -> list[Fact]:
    """Return the keys of some nodes, from the focused widget outwards.

    A key that an inner node takes is not told again; behind a screen that lies
    over others no key works.
    """
    facts: list[Fact] = []
    taken: set[str] = set()
    for node in chain:
        keys = _keys(node, taken)
        if keys:
            facts.append(Fact(_title(node)))
            facts += keys
        if isinstance(node, ModalScreen):
            break
    return facts


def _keys(node: DOMNode, taken: set[str]) -> list[Fact]:
    """Return the keys that a node declares and that work now; add them to `taken`."""
    by_action: dict[str, tuple[list[str], str]] = {}
    own = getattr(type(node), "BINDINGS", [])
    for binding in Binding.make_bindings(own):
        name = binding.action.partition("(")[0].removeprefix("app.")
        if binding.key in taken or not node.check_action(name, ()):
            continue
        taken.add(binding.key)
        if binding.description:
            keys, _ = by_action.setdefault(binding.action, ([], binding.description))
            keys.append(key_name(binding.key))
    return [Fact(" ".join(keys), text) for keys, text in by_action.values()]


def _title(node: DOMNode) -> str:
    title = getattr(node, "TITLE", None)
    if isinstance(title, str):
        return f"in {title}"
    return _TITLES.get(type(node).__name__, _words(node))


def _words(node: DOMNode) -> str:
    name = type(node).__name__
    spaced = "".join(f" {c.lower()}" if c.isupper() else c for c in name)
    return f"in the{spaced}"
