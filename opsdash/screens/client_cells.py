"""What each client did in each round, as the cells of a grid."""

from opsdash import units
from opsdash.projections.round_rows import RoundRow, Update
from opsdash.screens.pane import View
from opsdash.widgets.client_grid import ClientGrid, GridCell, GridLegend

LEGEND = (
    GridLegend("o", "ok", "joined"),
    GridLegend("r", "warn", "reset"),
    GridLegend("!", "bad", "refused"),
    GridLegend("-", "bad", "missing"),
    GridLegend("?", "accent", "open"),
    GridLegend("x", "warn", "away"),
    GridLegend(".", "dim", "not asked"),
)
_MAX_ROUNDS = 200
"""Of older ones only the figures are kept."""


def show_clients(grid: ClientGrid, view: View) -> None:
    """Show the newest rounds on a grid."""
    rounds = view.run.rounds.rows()[:_MAX_ROUNDS][::-1]
    clients = sorted(row.client for row in view.run.rounds.clients())
    cells = {
        (client, row.round_num): _cell(client, row)
        for row in rounds
        if row.is_detailed
        for client in clients
    }
    grid.show(clients, [row.round_num for row in rounds], cells)


def _cell(client: str, row: RoundRow) -> GridCell:
    update, refusal = row.updates.get(client), row.refused.get(client)
    is_reset = client in row.reset
    if update is not None and (row.members is None or client in row.members):
        letter, tone = ("r", "warn") if is_reset else ("o", "ok")
        return GridCell(letter, tone, _contribution(update, is_reset=is_reset))
    if refusal is not None:
        return GridCell("!", "bad", f"refused: {refusal}")
    if client not in row.clients and client in row.away:
        return GridCell("x", "warn", f"not asked, it was away ({row.away[client]})")
    if client not in row.clients:
        return GridCell(".", "dim", "not asked")
    ended = row.reason or row.why_abandoned
    if ended is None:
        return GridCell("?", "accent", "asked, nothing came yet")
    return GridCell("-", "bad", f"asked, missing when the round ended ({ended})")


def _contribution(update: Update, *, is_reset: bool) -> str:
    parts = [
        f"{units.count(update.num_examples)} examples",
        f"loss {units.number(update.loss)}",
        f"queue {units.duration(update.queue_ns)}",
        f"compute {units.duration(update.compute_ns)}",
        f"transfer {units.duration(update.transfer_ns)}",
    ]
    if update.cosine is not None:
        parts.append(f"cosine {units.number(update.cosine)}")
    if update.rounds_missed:
        parts.append(f"had missed {units.count(update.rounds_missed)} rounds")
    if is_reset:
        parts.append("optimizer reset")
    return ", ".join(parts)
