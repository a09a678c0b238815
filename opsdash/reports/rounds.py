"""Federated rounds and clients: `opsdash rounds`."""

import msgspec

from opsdash import units
from opsdash.projections.round_rows import ClientRow, RoundRow
from opsdash.projections.run import Run
from opsdash.reports.report import WIDTH, Report, table, wrap

_MAX_ROWS = 30


class UpdateReport(msgspec.Struct, frozen=True):
    """One client's contribution to one round."""

    client: str
    num_examples: int | None
    loss: float | None
    accuracy_frac: float | None
    queue_ns: int | None
    compute_ns: int | None
    transfer_ns: int | None
    num_bytes: int | None
    update_norm: float | None
    cosine: float | None
    rounds_missed: int | None


class RoundReport(msgspec.Struct, frozen=True):
    """One round."""

    round_num: int
    attempt: int
    num_clients: int
    num_members: int | None
    clients: tuple[str, ...]
    members: tuple[str, ...] | None
    missing: tuple[str, ...]
    refused: dict[str, str]
    reset: tuple[str, ...]
    round_ns: int | None
    loss: float | None
    accuracy_frac: float | None
    reason: str | None
    why_abandoned: str | None
    model_digest: str | None
    updates: tuple[UpdateReport, ...]


class ClientReport(msgspec.Struct, frozen=True):
    """One client."""

    client: str
    is_present: bool
    why_absent: str | None
    since_round: int | None
    last_round: int | None
    num_updates: int
    num_returns: int
    num_resets: int


class RoundsReport(Report, frozen=True, kw_only=True):
    """Rounds, newest first, and clients, absent ones first."""

    why_empty: str | None
    current: int | None
    rounds: tuple[RoundReport, ...]
    clients: tuple[ClientReport, ...]


def make_rounds(run: Run, now_mono_ns: int, now_ns: int) -> RoundsReport:  # noqa: ARG001 - one signature for all reports
    """Return the report of this moment."""
    return RoundsReport(
        report="rounds",
        run=run.directory.path,
        time_ns=now_ns,
        why_empty=run.rounds.why_empty(run.kind),
        current=run.rounds.current,
        rounds=tuple(_round(row) for row in run.rounds.rows()),
        clients=tuple(_client(row) for row in run.rounds.clients()),
    )


def render_rounds(report: RoundsReport) -> list[str]:
    """Return the report as lines."""
    if report.why_empty is not None:
        return wrap(report.why_empty, WIDTH)
    rounds = [
        (
            units.count(row.round_num),
            _members(row),
            units.duration(row.round_ns),
            units.number(row.loss),
            units.percent(row.accuracy_frac),
            _remarks(row),
        )
        for row in report.rounds[:_MAX_ROWS]
    ]
    head = ("round", "members", "took", "loss", "accuracy", "")
    lines = table(head, rounds, right=range(5))
    clients = [
        (
            row.client,
            "here" if row.is_present else "missing",
            units.count(row.last_round),
            units.count(row.num_returns),
            units.count(row.num_resets),
            row.why_absent or "",
        )
        for row in report.clients[:_MAX_ROWS]
    ]
    head = ("client", "state", "last round", "returns", "resets", "")
    return [*lines, "", *table(head, clients, right=(2, 3, 4))]


def _members(row: RoundReport) -> str:
    members = units.MISSING if row.num_members is None else str(row.num_members)
    return f"{members} of {row.num_clients}"


def _remarks(row: RoundReport) -> str:
    remarks = [] if row.reason in (None, "complete") else [f"{row.reason}"]
    if row.why_abandoned is not None:
        remarks.append(f"given up: {row.why_abandoned}")
    if row.missing and row.reason is not None:
        remarks.append(f"missing {', '.join(row.missing[:3])}")
    if row.reset:
        remarks.append(f"reset {', '.join(row.reset[:3])}")
    return "; ".join(remarks)


def _round(row: RoundRow) -> RoundReport:
    return RoundReport(
        round_num=row.round_num,
        attempt=row.attempt,
        num_clients=row.num_clients,
        num_members=row.num_members,
        clients=row.clients,
        members=row.members,
        missing=row.missing,
        refused=row.refused,
        reset=row.reset,
        round_ns=row.round_ns,
        loss=row.loss,
        accuracy_frac=row.accuracy_frac,
        reason=row.reason,
        why_abandoned=row.why_abandoned,
        model_digest=row.model_digest,
        updates=tuple(
            UpdateReport(client, *update) for client, update in row.updates.items()
        ),
    )


def _client(row: ClientRow) -> ClientReport:
    return ClientReport(*row)
