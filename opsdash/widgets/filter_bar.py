"""FilterBar: one line in which a filter is typed, with a live count beside it.

While it has the focus every printable key is text, `q` too. The owner filters
on `FilterChanged` and answers with `show_count`; nothing here is matched.
"""

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal
from textual.message import Message
from textual.widgets import Input

from opsdash.projections.match import MAX_PATTERN, matcher
from opsdash.units import count
from opsdash.widgets.lines import LineWidget
from opsdash.widgets.spans import Line, Span

_MAX_NAMED = 40
"""Characters of a pattern that a sentence repeats."""


def no_match(*wanted: str) -> str:
    """Return what a list says that a filter has emptied: which one, and the way out."""
    return f"nothing matches {', '.join(wanted)}: escape clears the filter"


def quoted(pattern: str) -> str:
    """Return a pattern as a filter's owner names it, cut where it is long."""
    shown = pattern if len(pattern) <= _MAX_NAMED else f"{pattern[:_MAX_NAMED]}..."
    return f"`{shown}`"


class FilterBar(Horizontal):
    """`/`, the pattern, how many rows it lets through."""

    DEFAULT_CSS = """
    FilterBar {
        height: 1;
        background: $background;
        & > Input {
            width: 1fr;
            height: 1;
            border: none;
            padding: 0;
            background: $background;
            &:focus { border: none; background-tint: 0%; }
        }
    }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "clear", "Clear filter", show=False),
        # Before the input: what is typed next is for the rows.
        Binding("enter,down", "leave", "To the rows", show=False, priority=True),
    ]

    class FilterChanged(Message):
        """Another pattern is wanted."""

        def __init__(self, filter_bar: "FilterBar", pattern: str) -> None:
            super().__init__()
            self.filter_bar = filter_bar
            self.pattern = pattern

        @property
        def control(self) -> "FilterBar":
            """The bar, for `@on` selectors."""
            return self.filter_bar

        def can_replace(self, message: Message) -> bool:
            """Only what is typed now matters to a slow screen."""
            return isinstance(message, FilterBar.FilterChanged) and (
                message.filter_bar is self.filter_bar
            )

    class Left(Message):
        """The operator is done typing: the focus belongs to the rows."""

        def __init__(self, filter_bar: "FilterBar") -> None:
            super().__init__()
            self.filter_bar = filter_bar

        @property
        def control(self) -> "FilterBar":
            """The bar, for `@on` selectors."""
            return self.filter_bar

    def compose(self) -> ComposeResult:
        """Lay out sign, input and count."""
        yield _Sign()
        pattern = Input(compact=True, max_length=MAX_PATTERN, select_on_focus=False)
        pattern.cursor_blink = False  # a blink is two repaints a second, over ssh
        yield pattern
        yield _Count()

    @property
    def pattern(self) -> str:
        """What is typed now."""
        return self.query_one(Input).value

    def show_pattern(self, pattern: str) -> None:
        """Put a pattern in, as a saved one; it is posted like a typed one."""
        self.query_one(Input).value = pattern

    def show_count(
        self, num_matching: int, num_all: int, *, is_literal: bool | None = None
    ) -> None:
        """Say how many rows the pattern lets through.

        Args:
            num_matching: Rows that are left.
            num_all: Rows in all.
            is_literal: Whether the pattern is taken literally; None: if it is
                no regular expression.
        """
        self.query_one(_Count).show(
            num_matching, num_all, self.pattern, is_literal=is_literal
        )

    def on_input_changed(self, event: Input.Changed) -> None:
        """Tell the owner."""
        event.stop()
        self.post_message(self.FilterChanged(self, event.value))

    def action_leave(self) -> None:
        """Keep the filter and go to the rows, which follow this bar."""
        self.screen.focus_next()
        self.post_message(self.Left(self))

    def action_clear(self) -> None:
        """Take the filter away and go to the rows."""
        self.query_one(Input).value = ""
        self.action_leave()


class _Sign(LineWidget):
    DEFAULT_CSS = "_Sign { width: 2; height: 1; }"

    def lines(self, width: int, height: int) -> list[Line]:  # noqa: ARG002 - one sign
        return [(Span("/", "accent"),)]


class _Count(LineWidget):
    DEFAULT_CSS = "_Count { width: 30; height: 1; max-width: 50%; }"

    def __init__(self) -> None:
        super().__init__()
        self.text = ""
        self.note = ""

    def show(
        self, num_matching: int, num_all: int, pattern: str, *, is_literal: bool | None
    ) -> None:
        filtering = matcher(pattern)
        is_literal = filtering.is_literal if is_literal is None else is_literal
        self.note = "literally " if is_literal else ""
        self.text = f"{count(num_matching)} of {count(num_all)}"
        if filtering.is_everything and num_matching == num_all:
            self.text = count(num_all)
        self.changed()

    def lines(self, width: int, height: int) -> list[Line]:  # noqa: ARG002 - one line
        text = f"{self.note}{self.text}"
        text = text if len(text) <= width else self.text[:width]
        return [(Span(text.rjust(width), "dim"),)]
