"""What a client may still trust of its own state when it comes back.

A client's optimizer state belongs to the model that it was grown on. It lives
across consecutive rounds that the server acknowledged, and nothing else: a
round that was trained but not acknowledged is rolled back, a round that was
missed costs the state. Decisions only; nothing here touches a tensor.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Generic, TypeVar

State = TypeVar("State")


class ReconnectPolicy(StrEnum):
    """What happens to optimizer state that is older than the model."""

    RESET = "reset"
    """It is cleared; hyperparameters stay."""
    KEEP = "keep"
    """It stays: for the experiment that shows why not."""
    DECAY = "decay"
    """It shrinks by a factor per round missed."""


@dataclass(frozen=True, kw_only=True)
class Trained(Generic[State]):
    """A round that was trained here and is not acknowledged yet."""

    round_num: int
    attempt: int
    """Of the server that asked for it."""
    state: State


@dataclass(frozen=True, kw_only=True)
class Standing(Generic[State]):
    """Where a client stands with the server."""

    acked_round: int | None = None
    """Last round whose members this client was among, as the server told; None:
    it has never been a member."""
    fresh_round: int = 0
    """Up to this round the state lacks nothing: it took part, or was reset."""
    state: State | None = None
    """As after the acknowledged round; None: as constructed."""
    trained: Trained[State] | None = None


@dataclass(frozen=True)
class Loss:
    """Why the state cannot be used as it is."""

    reason: str
    rounds_missed: int


@dataclass(frozen=True)
class Settled(Generic[State]):
    """What follows from what the server told."""

    standing: Standing[State]
    loss: Loss | None
    """What the policy is to be applied to; None: nothing was missed."""


def settle(
    standing: Standing[State],
    *,
    server_acked: int | None,
    attempt: int,
    last_round: int,
    restored_round: int | None = None,
) -> Settled[State]:
    """Compare a client's memory with the server's when a session begins.

    Args:
        standing: What the client remembers, or read from its disk.
        server_acked: Last round that has this client among its members, by the
            server's durable record; None: none has.
        attempt: Of the server.
        last_round: The last one that the server committed; 0: none.
        restored_round: The last one that an operator restored; None: none.
    """
    trained = standing.trained
    if trained is not None and trained.round_num == server_acked:
        standing = acknowledge(standing, trained.round_num)
    elif standing.acked_round != server_acked:
        return Settled(
            Standing(acked_round=server_acked, fresh_round=last_round),
            _foreign(standing.acked_round, server_acked, last_round),
        )
    elif trained is not None and not _may_count(trained, attempt, last_round):
        standing = replace(standing, trained=None)
    missed = last_round - standing.fresh_round
    if missed <= 0:
        return Settled(standing, None)
    why = _why("reconnected after missing", standing, missed, restored_round)
    return _after_a_gap(standing, missed, last_round, why)


def begin(
    standing: Standing[State], round_num: int, restored_round: int | None = None
) -> Settled[State]:
    """Say what the state is worth for a round that is about to be trained."""
    standing = replace(standing, trained=None)
    missed = round_num - 1 - standing.fresh_round
    if missed <= 0:
        return Settled(standing, None)
    why = _why("missed", standing, missed, restored_round)
    return _after_a_gap(standing, missed, round_num - 1, why)


def acknowledge(standing: Standing[State], round_num: int) -> Standing[State]:
    """The server committed a round with this client among its members."""
    trained = standing.trained
    if trained is None or trained.round_num != round_num:
        return standing
    return Standing(acked_round=round_num, fresh_round=round_num, state=trained.state)


def finish_training(
    standing: Standing[State], *, round_num: int, attempt: int, state: State
) -> Standing[State]:
    """A round was trained; what it left counts once it is acknowledged."""
    trained = Trained(round_num=round_num, attempt=attempt, state=state)
    return replace(standing, trained=trained)


def change_state(
    standing: Standing[State], change: Callable[[State], State | None]
) -> Standing[State]:
    """Return the standing with another acknowledged state, e.g. a reset one."""
    if standing.state is None:
        return standing
    return replace(standing, state=change(standing.state))


def _may_count(trained: Trained[State], attempt: int, last_round: int) -> bool:
    """Whether the round is still open at the server that asked for it."""
    return trained.attempt == attempt and trained.round_num > last_round


def _after_a_gap(
    standing: Standing[State], missed: int, through_round: int, why: str
) -> Settled[State]:
    standing = replace(standing, fresh_round=through_round)
    if standing.acked_round is None:
        # A newcomer has grown no state that a gap could make stale.
        return Settled(standing, None)
    return Settled(standing, Loss(why, missed))


def _why(
    what: str, standing: Standing[State], missed: int, restored_round: int | None
) -> str:
    """Say what made the state stale: absence, or an operator."""
    text = f"{what} {missed} {'round' if missed == 1 else 'rounds'}"
    if restored_round is None or restored_round <= standing.fresh_round:
        return text
    restored = f"another model was restored as round {restored_round}"
    return restored if missed == 1 else f"{text}; {restored}"


def _foreign(mine: int | None, servers: int | None, last_round: int) -> Loss:
    missed = last_round - (servers or 0)
    if mine is None:
        return Loss(
            f"restarted without the state of round {servers}, the last acknowledged",
            missed,
        )
    told = "none" if servers is None else f"round {servers}"
    return Loss(f"the state is of round {mine}, the server acknowledged {told}", missed)
