"""What is known of a federated round and of a client, as rows that are shown."""

from dataclasses import dataclass
from typing import NamedTuple


class Update(NamedTuple):
    """One client's contribution to one round."""

    num_examples: int | None
    loss: float | None
    accuracy_frac: float | None
    queue_ns: int | None
    compute_ns: int | None
    transfer_ns: int | None
    num_bytes: int | None
    update_norm: float | None
    cosine: float | None
    """To the weighted mean of the others."""
    rounds_missed: int | None
    """Since the client's last round; None: this is its first."""


@dataclass(frozen=True, slots=True)
class RoundRow:
    """One round."""

    round_num: int
    attempt: int
    clients: tuple[str, ...]
    """For whom it was opened."""
    members: tuple[str, ...] | None
    """Whose updates were aggregated; None: not committed, or not detailed."""
    round_ns: int | None
    loss: float | None
    accuracy_frac: float | None
    reason: str | None
    """`complete`, `deadline` or `restored`; None: not committed."""
    restored_from: str | None
    """What an operator restored as this round, e.g. `client-1 round 3`."""
    model_digest: str | None
    num_clients: int
    num_members: int | None
    """How many updates were aggregated; None: not committed."""
    is_detailed: bool
    """False: too old, only its figures are kept."""
    updates: dict[str, Update]
    refused: dict[str, str]
    reset: tuple[str, ...]
    """Clients that cleared their optimizer in this round."""
    away: dict[str, str]
    """Clients that were lost when it was opened, and not asked; with why."""
    why_abandoned: str | None
    """Why it was given up; None: it was not, or was opened again."""

    @property
    def missing(self) -> tuple[str, ...]:
        """Clients that were asked and gave nothing that counted."""
        there = self.updates if self.members is None else self.members
        return tuple(client for client in self.clients if client not in there)


class ClientRow(NamedTuple):
    """One client, as the server sees it."""

    client: str
    is_present: bool
    why_absent: str | None
    since_round: int | None
    """Round in which it joined or was lost last."""
    last_round: int | None
    """The last round that it contributed to."""
    num_updates: int
    num_returns: int
    num_resets: int
