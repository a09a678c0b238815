"""Federated rounds and clients: who took part, who is missing, what it took.

The server's own events decide; a client's file adds what the server cannot
know. On a data-parallel run there is nothing to fold, and `why_empty` says so.
"""

from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import NamedTuple

from agent.rundir.events import (
    ClientJoined,
    ClientLost,
    ClientUpdate,
    OptimizerReset,
    RoundAbandoned,
    RoundCommitted,
    RoundStarted,
    UpdateRefused,
)
from opsdash.projections.batch import Origin
from opsdash.projections.plausible import (
    MAX_NODES,
    clip,
    finite,
    nanoseconds,
    whole,
)
from opsdash.projections.round_rows import ClientRow, RoundRow, Update

_MAX_ROUNDS = 10_000
_MAX_DETAILED = 200
"""Older rounds keep their figures and lose who did what in them."""
_MAX_CLIENTS = 1_024
_MAX_RESETS = 64
"""Of one client: the newest."""
_RECENT = 16
_NOT_FEDERATED = (
    "this is a data-parallel run: it has steps and no rounds; federated runs have them"
)
_NO_ROUND_YET = "no round was opened yet"
_NOT_BACK = "not back since the server began anew"


class _Commit(NamedTuple):
    members: tuple[str, ...]
    num_members: int
    num_selected: int
    round_ns: int | None
    loss: float | None
    accuracy_frac: float | None
    reason: str
    source: str | None
    model_digest: str


@dataclass
class _Round:
    round_num: int
    attempt: int
    clients: tuple[str, ...] = ()
    num_clients: int = 0
    is_opened: bool = False
    """Whether its beginning was told, and not its outcome alone."""
    committed: _Commit | None = None
    is_detailed: bool = True
    updates: dict[str, Update] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    away: dict[str, str] = field(default_factory=dict)
    why_abandoned: str | None = None


@dataclass
class _Client:
    is_present: bool = False
    is_told: bool = False
    """Whether somebody said that it came or went: its updates say less."""
    why_absent: str | None = None
    since_round: int | None = None
    last_round: int | None = None
    num_updates: int = 0
    num_returns: int = 0
    num_resets: int = 0
    resets: deque[int] = field(default_factory=lambda: deque(maxlen=_MAX_RESETS))
    """At or after which rounds; whoever comes back names the one it was cut off in."""


class Rounds:
    """Folds the events of a federation."""

    def __init__(self) -> None:
        self.num_hidden_clients = 0
        """Words about clients that came when no more could be told apart."""
        self.num_forgotten = 0
        """Rounds that were the oldest when there was no room for more."""
        self._rounds: OrderedDict[int, _Round] = OrderedDict()
        self._clients: dict[str, _Client] = {}
        self._now: int | None = None
        self._attempt = 0

    def on_started(self, origin: Origin, event: RoundStarted) -> None:
        """Take in that a round was opened."""
        opened = self._round(origin, event.round_num, is_new=True)
        if opened is not None:
            opened.clients = tuple(clip(c, 64) for c in event.clients[:_MAX_CLIENTS])
            opened.num_clients, opened.is_opened = len(event.clients), True
            opened.away = self._away()
            opened.why_abandoned = None
            self._now = opened.round_num

    def on_committed(self, origin: Origin, event: RoundCommitted) -> None:
        """Take in that a round's aggregate is durable."""
        is_restored = event.reason == "restored"
        done = self._round(origin, event.round_num, is_new=is_restored)
        if done is not None:
            done.committed = _commit(event)
            self._now = done.round_num

    def on_abandoned(self, origin: Origin, event: RoundAbandoned) -> None:
        """Take in that a round was given up."""
        given_up = self._round(origin, event.round_num)
        if given_up is not None:
            given_up.why_abandoned = clip(event.reason)

    def on_joined(self, origin: Origin, event: ClientJoined) -> None:
        """Take in that a client opened a session."""
        self._begin(origin)
        if client := self._client(event.client):
            client.is_present, client.why_absent, client.is_told = True, None, True
            client.since_round = self._now_or(event.round_num)
            client.num_returns += event.is_return

    def on_lost(self, origin: Origin, event: ClientLost) -> None:
        """Take in that a client's session ended without goodbye."""
        self._begin(origin)
        if client := self._client(event.client):
            client.is_present, client.is_told = False, True
            client.why_absent = clip(event.reason)
            client.since_round = self._now_or(event.round_num)

    def on_update(self, origin: Origin, event: ClientUpdate) -> None:
        """Take in a contribution that the server accepted.

        It is told when its round is durable, by the next attempt if need be: who
        gave it may have left since.
        """
        its_round = self._round(origin, event.round_num)
        client = self._client(event.client)
        if its_round is None or client is None:
            return
        if its_round.is_opened and its_round.attempt == origin.attempt:
            client.is_present = client.is_present or not client.is_told
        client.num_updates += 1
        client.last_round = its_round.round_num
        its_round.updates[clip(event.client, 64)] = _update(event)

    def on_refused(self, origin: Origin, event: UpdateRefused) -> None:
        """Take in a contribution that must not count."""
        its_round = self._round(origin, event.round_num)
        if its_round is not None and len(its_round.refused) < _MAX_CLIENTS:
            its_round.refused[clip(event.client, 64)] = clip(event.reason)

    def on_reset(self, origin: Origin, event: OptimizerReset) -> None:
        """Take in that a client cleared its optimizer's state."""
        if origin.rank is not None:
            return
        if client := self._client(origin.stem):
            client.num_resets += 1
            client.resets.append(self._now_or(event.round_num) or 0)

    def rows(self) -> list[RoundRow]:
        """Return the rounds, newest first."""
        reset = self._reset_clients()
        numbers = sorted(self._rounds, reverse=True)
        return [_row(self._rounds[n], reset.get(n, ())) for n in numbers]

    def clients(self) -> list[ClientRow]:
        """Return the clients, absent ones first, then by name."""
        rows = [
            ClientRow(
                client=name,
                is_present=client.is_present,
                why_absent=client.why_absent,
                since_round=client.since_round,
                last_round=client.last_round,
                num_updates=client.num_updates,
                num_returns=client.num_returns,
                num_resets=client.num_resets,
            )
            for name, client in self._clients.items()
        ]
        return sorted(rows, key=lambda row: (row.is_present, row.client))

    @property
    def current(self) -> int | None:
        """The round that was opened or committed last."""
        return self._now

    @property
    def last_committed(self) -> int | None:
        """The newest round that is durable."""
        return max((n for n, r in self._rounds.items() if r.committed), default=None)

    def newest_committed(self) -> RoundRow | None:
        """Return the newest round that is durable."""
        number = self.last_committed
        if number is None:
            return None
        return _row(self._rounds[number], self._reset_clients().get(number, ()))

    @property
    def typical_ns(self) -> int | None:
        """Median length of the last rounds."""
        lengths = [
            found.committed.round_ns
            for found in list(self._rounds.values())[-_RECENT:]
            if found.committed and found.committed.round_ns is not None
        ]
        return int(median(lengths)) if lengths else None

    def why_empty(self, kind: str | None) -> str | None:
        """Return why there is nothing to show; None: there is something."""
        if self._rounds or self._clients:
            return None
        return _NO_ROUND_YET if kind == "federated" else _NOT_FEDERATED

    def _round(
        self, origin: Origin, round_num: int | None, *, is_new: bool = False
    ) -> _Round | None:
        """Return the round; a later attempt may tell more of it, or begin it anew."""
        self._begin(origin)
        number = whole(round_num)
        if number is None:
            return None
        found = self._rounds.get(number)
        if found is not None and found.attempt > origin.attempt:
            return None
        if found is None or (is_new and found.attempt < origin.attempt):
            self._drop_from(number, origin.attempt)
            found = self._rounds[number] = _Round(number, origin.attempt)
            self._condense()
        return found if number in self._rounds else None

    def _begin(self, origin: Origin) -> None:
        """Of a server that began anew nobody is a client until it has joined."""
        if origin.attempt <= self._attempt:
            return
        self._attempt = origin.attempt
        for client in self._clients.values():
            if client.is_present:
                client.is_present, client.is_told = False, True
                client.why_absent, client.since_round = _NOT_BACK, self._now

    def _condense(self) -> None:
        """Bound what is kept: details of the newest rounds, figures of many."""
        if len(self._rounds) > _MAX_ROUNDS:
            del self._rounds[next(iter(self._rounds))]
            self.num_forgotten += 1
        if len(self._rounds) > _MAX_DETAILED:
            old = next(r for r in self._rounds.values() if r.is_detailed)
            old.clients, old.updates, old.refused, old.away = (), {}, {}, {}
            if old.committed is not None:
                old.committed = old.committed._replace(members=())
            old.is_detailed = False

    def _reset_clients(self) -> dict[int, list[str]]:
        """Return by round who entered it with a cleared optimizer."""
        found: dict[int, list[str]] = {}
        numbers = sorted(n for n, its in self._rounds.items() if its.is_detailed)
        # Of rounds before these it is not known any more who was in them.
        oldest = numbers[0] if len(numbers) < len(self._rounds) else 0
        for name, client in self._clients.items():
            for since in (number for number in client.resets if number >= oldest):
                entered = (n for n in numbers if n >= since and self._is_in(name, n))
                number = next(entered, None)
                if number is not None:
                    found.setdefault(number, []).append(name)
        return found

    def _is_in(self, client: str, number: int) -> bool:
        """Whether a client contributed to a round, or still may."""
        its = self._rounds[number]
        return client in its.updates or (
            its.committed is None and client in its.clients
        )

    def _away(self) -> dict[str, str]:
        """Return which clients are lost now, and why."""
        return {
            name: client.why_absent
            for name, client in self._clients.items()
            if client.why_absent is not None
        }

    def _drop_from(self, number: int, attempt: int) -> None:
        """Forget rounds of earlier attempts that a restart went back behind."""
        for known in [n for n, r in self._rounds.items() if n >= number]:
            if self._rounds[known].attempt < attempt:
                del self._rounds[known]

    def _client(self, name: str) -> _Client | None:
        name = clip(name, 64)
        if name not in self._clients:
            if len(self._clients) >= MAX_NODES:
                self.num_hidden_clients += 1
                return None
            self._clients[name] = _Client()
        return self._clients[name]

    def _now_or(self, round_num: int | None) -> int | None:
        number = whole(round_num)
        return self._now if number is None else number


def _update(event: ClientUpdate) -> Update:
    return Update(
        num_examples=whole(event.num_examples),
        loss=finite(event.loss),
        accuracy_frac=finite(event.accuracy_frac),
        queue_ns=nanoseconds(event.queue_ns),
        compute_ns=nanoseconds(event.compute_ns),
        transfer_ns=nanoseconds(event.transfer_ns),
        num_bytes=whole(event.num_bytes),
        update_norm=finite(event.update_norm),
        cosine=finite(event.cosine),
        rounds_missed=whole(event.rounds_missed),
    )


def _commit(event: RoundCommitted) -> _Commit:
    return _Commit(
        members=tuple(clip(member, 64) for member in event.members[:_MAX_CLIENTS]),
        num_members=len(event.members),
        num_selected=whole(event.num_selected) or 0,
        round_ns=nanoseconds(event.round_ns),
        loss=finite(event.loss),
        accuracy_frac=finite(event.accuracy_frac),
        reason=clip(event.reason, 40),
        source=clip(event.source, 100) if event.source else None,
        model_digest=clip(event.model_digest, 100),
    )


def _row(found: _Round, reset: Sequence[str]) -> RoundRow:
    done = found.committed
    return RoundRow(
        round_num=found.round_num,
        attempt=found.attempt,
        clients=found.clients,
        members=done.members if done and found.is_detailed else None,
        round_ns=done.round_ns if done else None,
        loss=done.loss if done else None,
        accuracy_frac=done.accuracy_frac if done else None,
        reason=done.reason if done else None,
        restored_from=done.source if done else None,
        model_digest=done.model_digest if done else None,
        # A round that its server did not live to tell has no beginning here.
        num_clients=found.num_clients or (done.num_selected if done else 0),
        num_members=done.num_members if done else None,
        is_detailed=found.is_detailed,
        updates=dict(found.updates),
        refused=dict(found.refused),
        reset=tuple(sorted(reset)[:_MAX_CLIENTS]),
        away=dict(found.away),
        why_abandoned=None if done else found.why_abandoned,
    )
