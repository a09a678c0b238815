"""Federated rounds and the clients that take part in them.

The server writes these, and speaks of clients by their keys.
"""

from agent.rundir.vocabulary.event import Event


class RoundStarted(Event, frozen=True, tag_field="kind", tag="round_started"):
    """A federated round was opened for these clients."""

    clients: tuple[str, ...]
    model_digest: str
    deadline_ns: int | None = None
    """Length of the round, not a point in time."""


class RoundCommitted(Event, frozen=True, tag_field="kind", tag="round_committed"):
    """The round's aggregate and its members are durable."""

    members: tuple[str, ...]
    num_selected: int
    round_ns: int
    model_digest: str
    loss: float | None = None
    accuracy_frac: float | None = None
    reason: str = "complete"
    """`complete`, `deadline`, or `restored` by an operator, without members."""
    source: str | None = None
    """What was restored, e.g. `client-1 round 3`; None: nothing."""


class RoundAbandoned(Event, frozen=True, tag_field="kind", tag="round_abandoned"):
    """A round ended without enough updates, or was stopped; none of them counts."""

    reason: str
    num_updates: int
    """That had come in vain."""
    num_selected: int


class ClientRefused(Event, frozen=True, tag_field="kind", tag="client_refused"):
    """A connection was turned away: token, protocol or key, or it came too often."""

    client: str
    """The key that it claimed."""
    reason: str
    num_untold: int = 0
    """Refused since the last one that was told: at most one a second is."""


class ClientJoined(Event, frozen=True, tag_field="kind", tag="client_joined"):
    """A client opened a session."""

    client: str
    session: str
    last_round: int | None = None
    """The last round that the server had acknowledged to it."""
    is_return: bool = False


class ClientLost(Event, frozen=True, tag_field="kind", tag="client_lost"):
    """A client's session ended without goodbye."""

    client: str
    session: str
    reason: str


class ClientUpdate(Event, frozen=True, tag_field="kind", tag="client_update"):
    """A client's contribution to a round, as the server accepted it."""

    client: str
    num_examples: int
    loss: float | None = None
    queue_ns: int | None = None
    compute_ns: int | None = None
    transfer_ns: int | None = None
    num_bytes: int | None = None
    update_norm: float | None = None
    cosine: float | None = None
    """Of this update to the weighted mean of the others."""
    accuracy_frac: float | None = None
    rounds_missed: int | None = None
    """Between this round and the client's last one before; None: it is its first."""


class UpdateRefused(Event, frozen=True, tag_field="kind", tag="update_refused"):
    """An update that must not enter the aggregate: late, duplicate or foreign."""

    client: str
    reason: str
    num_untold: int = 0
    """Of this client, refused since the last one that was told."""
