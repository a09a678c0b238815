"""What the machine of rounds is asked and what it answers, as plain values.

Times are nanoseconds of the server's monotonic clock; durations too.
"""

from dataclasses import dataclass
from enum import StrEnum

from agent.rundir.layout import is_safe_node

SECOND_NS = 1_000_000_000
SERVER = "server"
"""The server's own name among the nodes of a run."""


def is_client_key(key: str) -> bool:
    """Whether a client may be called this: files are named after it."""
    return is_safe_node(key) and key != SERVER


class Phase(StrEnum):
    """Where the federation is."""

    GATHERING = "gathering"
    """Between rounds: waiting for enough clients, or paused."""
    OPEN = "open"
    """A round collects updates."""
    CLOSING = "closing"
    """The round's aggregate is being computed and made durable."""
    FINISHED = "finished"


class Refusal(StrEnum):
    """Why an update does not enter the aggregate."""

    LATE = "late"
    """For a round that was committed or abandoned."""
    CLOSED = "closed"
    """For this round, after it was closed or its deadline had come."""
    DUPLICATE = "duplicate"
    EARLY = "early"
    """For a round that was never opened."""
    FOREIGN_ATTEMPT = "foreign_attempt"
    """Computed for another start of the server."""
    FOREIGN_MODEL = "foreign_model"
    """Computed from another model than the round's."""
    NOT_SELECTED = "not_selected"
    UNKNOWN_SESSION = "unknown_session"
    """From a session that ended or was replaced."""


@dataclass(frozen=True, kw_only=True)
class RoundRules:
    """How rounds are run. Durations are nanoseconds."""

    num_rounds: int
    limit_ns: int = 60 * SECOND_NS
    """Length of a round, from opening to its end at the latest."""
    min_clients: int = 1
    """A round opens with at least so many clients connected."""
    min_updates: int = 1
    """A round is committed with at least so many updates."""
    client_frac: float = 1.0
    """Share of the connected clients that a round asks, in (0, 1]."""
    expected_clients: int = 0
    """The first round of an attempt waits a little for so many."""
    gather_ns: int = 10 * SECOND_NS
    """How long it waits for them once the least number is there."""
    return_grace_ns: int = 2 * SECOND_NS
    """A client that was lost for longer no longer holds up its round."""
    max_tries: int = 5
    """Rounds in a row that may end without enough updates before it is over."""
    patience_ns: int | None = 600 * SECOND_NS
    """How long too few clients are waited for; None: for ever."""
    seed: int = 0
    """Of the choice of clients."""

    def __post_init__(self) -> None:
        if self.num_rounds < 1 or self.limit_ns < 1 or self.max_tries < 1:
            raise ValueError("rounds, their limit and tries must be at least 1")
        if not 1 <= self.min_updates <= self.min_clients:
            raise ValueError("1 <= min_updates <= min_clients is needed")
        if not 0 < self.client_frac <= 1:
            raise ValueError(f"client_frac {self.client_frac} is not in (0, 1]")


@dataclass(frozen=True, kw_only=True)
class Offer:
    """What identifies an update, whatever tensors it holds."""

    client: str
    session: str
    round_num: int
    attempt: int
    base_digest: str
    """Of the model that it was computed from."""


@dataclass(frozen=True)
class Open:
    """To do: ask these clients for updates of the model."""

    round_num: int
    clients: tuple[str, ...]
    model_digest: str
    deadline_ns: int


@dataclass(frozen=True)
class Ask:
    """To do: ask a client again that returned within its round."""

    round_num: int
    client: str


@dataclass(frozen=True)
class Close:
    """To do: aggregate the members' updates and make the round durable."""

    round_num: int
    members: tuple[str, ...]
    num_selected: int
    reason: str
    """`complete`, or `deadline`."""
    opened_ns: int
    deadline_ns: int
    closed_ns: int


@dataclass(frozen=True)
class Abandon:
    """To do: forget the round's updates; it will be opened again."""

    round_num: int
    reason: str
    num_selected: int


@dataclass(frozen=True)
class Finish:
    """To do: tell everybody that the federation is over."""

    reason: str
    """`completed`, `stopped`, or `error`."""
    detail: str | None = None


Effect = Open | Ask | Close | Abandon | Finish
