"""Pane 5: the chunk stores of a federated run; on another run, why it is empty."""

from typing import ClassVar

from textual.app import ComposeResult

from opsdash import units
from opsdash.projections.chunks import StoreRow
from opsdash.screens.pane import Pane, View
from opsdash.widgets.facts import Fact, Facts
from opsdash.widgets.rows import Cell, Column, FixedRows
from opsdash.widgets.table import VirtualTable

_COLUMNS = (
    Column("node", 10, flex=1, sortable=False),
    Column("round", 6, align_right=True, sortable=False),
    Column("kept", 6, align_right=True, sortable=False),
    Column("chunks", 8, align_right=True, sortable=False),
    Column("new", 9, align_right=True, sortable=False),
    Column("shared", 9, align_right=True, sortable=False),
    Column("file", 9, align_right=True, sortable=False),
    Column("put in", 9, align_right=True, sortable=False),
    Column("state", 10, flex=2, sortable=False),
)
_MAX_DAMAGES = 20


class ChunksPane(Pane):
    """A row per store, damaged ones first, and what is damaged in them."""

    TITLE: ClassVar[str] = "chunks"
    DEFAULT_CSS = """
    ChunksPane {
        & > VirtualTable { height: 1fr; }
        & > Facts { height: auto; max-height: 50%; margin: 1 2; }
    }
    """

    def compose(self) -> ComposeResult:
        """Lay out the stores and the damages."""
        yield VirtualTable(_COLUMNS)
        yield Facts()

    def show(self, view: View) -> None:
        """Show the run as it is now."""
        chunks = view.run.chunks
        why = chunks.why_empty(view.run.kind)
        self.query_one(VirtualTable).display = not why
        self.query_one(VirtualTable).show(
            FixedRows((row.node, _cells(row)) for row in chunks.rows())
        )
        facts = [Fact("empty", why)] if why else []
        facts += [
            Fact(
                f"{damage.store} chunk {damage.chunk}",
                f"{damage.reason}{', repaired' if damage.is_repaired else ''}",
                "dim" if damage.is_repaired else "bad",
            )
            for damage in chunks.damages()[:_MAX_DAMAGES]
        ]
        self.query_one(Facts).show(facts)


def _cells(row: StoreRow) -> tuple[Cell, ...]:
    return (
        Cell(row.node),
        Cell(units.count(row.round_num)),
        Cell(units.count(row.num_rounds)),
        Cell(units.count(row.num_chunks)),
        Cell(units.byte_size(row.new_bytes)),
        Cell(units.byte_size(row.shared_bytes)),
        Cell(units.byte_size(row.file_bytes)),
        Cell(units.duration(row.put_ns), "dim"),
        Cell(*_state(row)),
    )


def _state(row: StoreRow) -> tuple[str, str]:
    if row.num_damaged:
        return (f"{units.count(row.num_damaged)} chunks damaged", "bad")
    if row.num_failed:
        return (
            f"{units.count(row.num_failed)} rounds not stored: {row.last_error}",
            "bad",
        )
    return ("sound as far as told", "dim")
