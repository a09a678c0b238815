"""Pane 6: federated rounds and clients; on another run it says why it is empty."""

from collections.abc import Callable, Iterable

from textual.app import ComposeResult

from opsdash import units
from opsdash.messages import ProcessOpened, RoundOpened
from opsdash.projections.plausible import MAX_NODES
from opsdash.projections.round_rows import ClientRow, RoundRow
from opsdash.projections.rounds import Rounds
from opsdash.screens.client_cells import LEGEND, show_clients
from opsdash.screens.pane import Pane, View
from opsdash.widgets.client_grid import ClientGrid
from opsdash.widgets.facts import Fact, Facts
from opsdash.widgets.record_table import Field, RecordTable
from opsdash.widgets.rows import Cell, Column
from opsdash.widgets.table_messages import Selected

_CLIENTS: tuple[Field[ClientRow], ...] = (
    Field(
        Column("client", 10, flex=1), lambda row: Cell(row.client), lambda r: r.client
    ),
    Field(
        Column("state", 8),
        lambda row: Cell(
            "joined" if row.is_present else "missing", "ok" if row.is_present else "bad"
        ),
        lambda row: row.is_present,
    ),
    Field(
        Column("since", 6, align_right=True),
        lambda row: Cell(units.count(row.since_round), "dim"),
        lambda row: row.since_round or 0,
    ),
    Field(
        Column("last", 6, align_right=True),
        lambda row: Cell(units.count(row.last_round)),
        lambda row: row.last_round or 0,
    ),
    Field(
        Column("updates", 7, align_right=True),
        lambda row: Cell(units.count(row.num_updates), "dim"),
        lambda row: row.num_updates,
    ),
    Field(
        Column("returns", 7, align_right=True),
        lambda row: _rare(row.num_returns),
        lambda row: row.num_returns,
    ),
    Field(
        Column("resets", 6, align_right=True),
        lambda row: _rare(row.num_resets),
        lambda row: row.num_resets,
    ),
    Field(
        Column("why", 10, flex=3),
        lambda row: Cell(row.why_absent or "", "warn"),
        lambda row: row.why_absent or "",
    ),
)


def _rare(number: int) -> Cell:
    return Cell(units.count(number), "warn" if number else "dim")


def _longest(name: str) -> Callable[[RoundRow], int | None]:
    def longest(row: RoundRow) -> int | None:
        found: Iterable[int | None] = (getattr(u, name) for u in row.updates.values())
        return max((ns for ns in found if ns is not None), default=None)

    return longest


def _duration(title: str, get: Callable[[RoundRow], int | None]) -> Field[RoundRow]:
    return Field(
        Column(title, 8, align_right=True),
        lambda row: Cell(units.duration(get(row)), "dim"),
        lambda row: get(row) or 0,
    )


_ROUNDS: tuple[Field[RoundRow], ...] = (
    Field(
        Column("round", 6, align_right=True),
        lambda row: Cell(units.count(row.round_num)),
        lambda row: row.round_num,
    ),
    _duration("took", lambda row: row.round_ns),
    Field(
        Column("in", 5, align_right=True),
        lambda row: Cell(f"{units.count(row.num_members)}/{row.num_clients}"),
        lambda row: row.num_members or 0,
    ),
    Field(
        Column("loss", 8, align_right=True),
        lambda row: Cell(units.number(row.loss)),
        lambda row: row.loss or 0.0,
    ),
    Field(
        Column("accuracy", 8, align_right=True),
        lambda row: Cell(units.percent(row.accuracy_frac)),
        lambda row: row.accuracy_frac or 0.0,
    ),
    Field(
        Column("what happened", 24, flex=1),
        lambda row: Cell(*_happened(row)),
        lambda row: _happened(row)[0],
    ),
    _duration("queue", _longest("queue_ns")),
    _duration("compute", _longest("compute_ns")),
    _duration("transfer", _longest("transfer_ns")),
)


class RoundsPane(Pane):
    """Clients by rounds above, then both as tables, newest round first."""

    DEFAULT_CSS = """
    RoundsPane {
        & > ClientGrid { height: auto; max-height: 10; min-height: 3; }
        & > #clients { height: 1fr; }
        & > #rounds { height: 2fr; }
        & > #empty { margin: 1 2; }
    }
    """

    def compose(self) -> ComposeResult:
        """Lay out grid and tables, and the reason why there are none."""
        yield Facts(id="empty")
        yield ClientGrid(LEGEND)
        yield RecordTable(
            _CLIENTS,
            key=lambda row: row.client,
            empty="no client joined yet",
            id="clients",
        )
        yield RecordTable(
            _ROUNDS,
            key=lambda row: row.round_num,
            empty="no round was opened yet",
            id="rounds",
        )

    def show(self, view: View) -> None:
        """Show the run as it is now."""
        rounds = view.run.rounds
        why = rounds.why_empty(view.run.kind)
        said = [Fact("empty", why)] if why else _left_out(rounds)
        self.query_one("#empty", Facts).show(said)
        self.query_one("#empty").display = bool(said)
        for name in ("ClientGrid", "#clients", "#rounds"):
            self.query_one(name).display = not why
        grid = self.query_one(ClientGrid)
        grid.styles.height = min(10, len(rounds.clients()) + 2)
        show_clients(grid, view)
        self.query_one("#clients", RecordTable).show(rounds.clients())
        table = self.query_one("#rounds", RecordTable)
        is_at_newest = table.table.cursor == 0
        table.show(rounds.rows())
        if is_at_newest:  # who has not moved away sees the newest
            table.table.action_first()

    @property
    def has_filter(self) -> bool:
        """Clients and rounds, where there are any."""
        return bool(self.query_one("#rounds").display)

    def filter_rows(self) -> bool:
        """Begin to type a filter of the table in use; of the rounds otherwise."""
        if not self.has_filter:
            return False
        clients = self.query_one("#clients", RecordTable)
        is_there = clients.has_focus_within
        (clients if is_there else self.query_one("#rounds", RecordTable)).filter_rows()
        return True

    def on_virtual_table_selected(self, event: Selected) -> None:
        """Go to what happened in the round, or to the client, under the cursor."""
        if isinstance(event.key, int):
            self.post_message(RoundOpened(event.key, None))
        else:
            self.post_message(ProcessOpened(str(event.key)))

    def on_client_grid_cell_selected(self, event: ClientGrid.CellSelected) -> None:
        """Go from a cell to what happened in that round."""
        self.post_message(RoundOpened(event.round_num, event.client))


def _happened(row: RoundRow) -> tuple[str, str]:
    if row.why_abandoned is not None:
        return (f"given up: {row.why_abandoned}", "bad")
    if row.reason is None:
        return ("running", "accent")
    parts = [f"{client} missing" for client in row.missing]
    parts += [f"{client} reset" for client in row.reset]
    parts += [f"{client} refused: {why}" for client, why in row.refused.items()]
    if row.restored_from is not None:
        parts.insert(0, f"restored from {row.restored_from}")
    elif row.reason != "complete":
        parts.insert(0, f"ended by {row.reason}")
    if not parts and not row.is_detailed:
        return ("complete; who did what is not kept", "dim")
    return (", ".join(parts) or "complete", "warn" if parts else "dim")


def _left_out(rounds: Rounds) -> list[Fact]:
    """Return what was told and has no row here."""
    parts = []
    if rounds.num_forgotten:
        parts.append(f"the oldest {units.count(rounds.num_forgotten)} rounds")
    if rounds.num_hidden_clients:
        parts.append(f"clients after the first {units.count(MAX_NODES)}")
    return [Fact("left out", ", ".join(parts), "warn")] if parts else []
