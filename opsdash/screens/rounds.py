"""Pane 6: federated rounds and clients; on another run it says why it is empty."""

from collections.abc import Iterable
from typing import ClassVar

from textual.app import ComposeResult

from opsdash import units
from opsdash.projections.rounds import ClientRow, RoundRow
from opsdash.screens.pane import Pane, View
from opsdash.widgets.facts import Fact, Facts
from opsdash.widgets.rows import Cell, Column, FixedRows
from opsdash.widgets.table import VirtualTable

_CLIENTS = (
    Column("client", 10, flex=1, sortable=False),
    Column("state", 8, sortable=False),
    Column("since", 6, align_right=True, sortable=False),
    Column("last", 6, align_right=True, sortable=False),
    Column("updates", 7, align_right=True, sortable=False),
    Column("returns", 7, align_right=True, sortable=False),
    Column("resets", 6, align_right=True, sortable=False),
    Column("why", 10, flex=3, sortable=False),
)
_ROUNDS = (
    Column("round", 6, align_right=True, sortable=False),
    Column("took", 9, align_right=True, sortable=False),
    Column("in", 5, align_right=True, sortable=False),
    Column("loss", 8, align_right=True, sortable=False),
    Column("accuracy", 8, align_right=True, sortable=False),
    Column("queue", 8, align_right=True, sortable=False),
    Column("compute", 8, align_right=True, sortable=False),
    Column("transfer", 8, align_right=True, sortable=False),
    Column("what happened", 10, flex=1, sortable=False),
)


class RoundsPane(Pane):
    """Clients above, rounds below, newest first."""

    TITLE: ClassVar[str] = "rounds"
    DEFAULT_CSS = """
    RoundsPane {
        & #clients { height: 1fr; }
        & #rounds { height: 2fr; }
        & #empty { margin: 1 2; }
    }
    """

    def compose(self) -> ComposeResult:
        """Lay out the tables, and the reason why there are none."""
        yield Facts(id="empty")
        yield VirtualTable(_CLIENTS, empty="no client joined yet", id="clients")
        yield VirtualTable(_ROUNDS, empty="no round was opened yet", id="rounds")

    def show(self, view: View) -> None:
        """Show the run as it is now."""
        rounds = view.run.rounds
        why = rounds.why_empty(view.run.kind)
        self.query_one("#empty", Facts).show([Fact("empty", why)] if why else [])
        self.query_one("#empty").display = bool(why)
        for name in ("clients", "rounds"):
            self.query_one(f"#{name}").display = not why
        self.query_one("#clients", VirtualTable).show(
            FixedRows((row.client, _client_cells(row)) for row in rounds.clients())
        )
        self.query_one("#rounds", VirtualTable).show(
            FixedRows((row.round_num, _round_cells(row)) for row in rounds.rows())
        )


def _client_cells(row: ClientRow) -> tuple[Cell, ...]:
    return (
        Cell(row.client),
        Cell(
            "joined" if row.is_present else "missing", "ok" if row.is_present else "bad"
        ),
        Cell(units.count(row.since_round), "dim"),
        Cell(units.count(row.last_round)),
        Cell(units.count(row.num_updates), "dim"),
        Cell(units.count(row.num_returns), "warn" if row.num_returns else "dim"),
        Cell(units.count(row.num_resets), "warn" if row.num_resets else "dim"),
        Cell(row.why_absent or "", "warn"),
    )


def _round_cells(row: RoundRow) -> tuple[Cell, ...]:
    updates = list(row.updates.values())
    return (
        Cell(units.count(row.round_num)),
        Cell(units.duration(row.round_ns)),
        Cell(f"{units.count(row.num_members)}/{row.num_clients}"),
        Cell(units.number(row.loss)),
        Cell(units.percent(row.accuracy_frac)),
        Cell(_longest(u.queue_ns for u in updates), "dim"),
        Cell(_longest(u.compute_ns for u in updates), "dim"),
        Cell(_longest(u.transfer_ns for u in updates), "dim"),
        Cell(*_happened(row)),
    )


def _longest(values: Iterable[int | None]) -> str:
    return units.duration(max((v for v in values if v is not None), default=None))


def _happened(row: RoundRow) -> tuple[str, str]:
    if row.reason is None:
        return ("running", "accent")
    parts = [f"{client} missing" for client in row.missing]
    parts += [f"{client} reset" for client in row.reset]
    parts += [f"{client} refused: {why}" for client, why in row.refused.items()]
    if row.reason != "complete":
        parts.insert(0, f"ended by {row.reason}")
    return (", ".join(parts) or "complete", "warn" if parts else "dim")
