"""What a table tells its owner; also found as `VirtualTable.Highlighted` and so on.

A handler is `on_virtual_table_highlighted`, as if they were nested.
"""

from collections.abc import Hashable
from typing import TYPE_CHECKING

from textual.message import Message

if TYPE_CHECKING:
    from opsdash.widgets.table import VirtualTable


class TableMessage(Message, namespace="virtual_table"):
    """What the messages of a table have in common."""

    def __init__(self, table: "VirtualTable") -> None:
        super().__init__()
        self.table = table

    @property
    def control(self) -> "VirtualTable":
        """The table, for `@on` selectors."""
        return self.table


class Highlighted(TableMessage, namespace="virtual_table"):
    """Another row is under the cursor; key None: there is no row."""

    def __init__(self, table: "VirtualTable", key: Hashable | None) -> None:
        super().__init__(table)
        self.key = key

    def can_replace(self, message: Message) -> bool:
        """Only where the cursor is now matters to a slow screen."""
        return isinstance(message, Highlighted) and message.table is self.table


class Selected(TableMessage, namespace="virtual_table"):
    """The operator opened a row."""

    def __init__(self, table: "VirtualTable", key: Hashable) -> None:
        super().__init__(table)
        self.key = key


class SortRequested(TableMessage, namespace="virtual_table"):
    """The operator wants another order; the owner sorts and calls `show`."""

    def __init__(self, table: "VirtualTable", column: str, *, descending: bool) -> None:
        super().__init__(table)
        self.column = column
        self.descending = descending


class MarksChanged(TableMessage, namespace="virtual_table"):
    """The operator marked rows, or unmarked them."""

    def __init__(self, table: "VirtualTable", marked: frozenset[Hashable]) -> None:
        super().__init__(table)
        self.marked = marked
