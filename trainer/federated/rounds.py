"""The rounds of a federation as a state machine: who is asked, what counts, when.

It does no I/O and has no clock: every call brings the time, and returns what
the server has to do. Time is nanoseconds of the server's own monotonic clock.
A round ends at its deadline whoever is silent; an update that arrives at the
deadline is late. One owner calls it, from one thread.
"""

import math
import random
from dataclasses import dataclass, field

from trainer.federated.terms import (
    SECOND_NS,
    Abandon,
    Ask,
    Close,
    Effect,
    Finish,
    Offer,
    Open,
    Phase,
    Refusal,
    RoundRules,
)


@dataclass
class _Round:
    """The round that is open or being closed."""

    round_num: int
    selected: frozenset[str]
    opened_ns: int
    deadline_ns: int
    delivered: set[str] = field(default_factory=set)
    declined: set[str] = field(default_factory=set)
    """Asked, and known to give nothing."""

    @property
    def waited_for(self) -> frozenset[str]:
        """Who may still deliver."""
        return self.selected - self.delivered - self.declined


class Rounds:
    """The machine. Calls return what is to be done, in order."""

    def __init__(
        self,
        rules: RoundRules,
        *,
        attempt: int,
        last_round: int,
        model_digest: str,
        now_ns: int,
    ) -> None:
        """Begin after the last committed round (0: none is)."""
        self.rules = rules
        self.attempt = attempt
        self.last_round = last_round
        self.model_digest = model_digest
        self.phase = Phase.GATHERING
        self.is_paused = False
        self._is_stopping = False
        self._sessions: dict[str, str] = {}
        self._lost_ns: dict[str, int] = {}
        self._round: _Round | None = None
        self._num_tries = 0
        self._has_opened = False
        self._short_since_ns: int | None = now_ns
        self._enough_since_ns: int | None = None

    @property
    def round_num(self) -> int:
        """The round that is open, being closed, or next; counted from 1."""
        return self.last_round + 1

    @property
    def connected(self) -> frozenset[str]:
        """Clients with a session."""
        return frozenset(self._sessions)

    @property
    def selected(self) -> frozenset[str]:
        """Clients that the open round asked; empty between rounds."""
        return self._round.selected if self._round else frozenset()

    @property
    def delivered(self) -> frozenset[str]:
        """Clients whose update the open round has."""
        return frozenset(self._round.delivered) if self._round else frozenset()

    @property
    def deadline_ns(self) -> int | None:
        """When the open round ends at the latest; None: none is open."""
        return self._round.deadline_ns if self._round else None

    def join(self, client: str, session: str, now_ns: int) -> list[Effect]:
        """A client opened a session; one that it had before is over."""
        effects = self.tick(now_ns)
        if self.phase is Phase.FINISHED:
            return effects
        self._sessions[client] = session
        self._lost_ns.pop(client, None)
        self._count_clients(now_ns)
        if self.phase is Phase.OPEN and client in self._waited_for():
            effects.append(Ask(self.round_num, client))
        return effects + self.tick(now_ns)

    def lose(self, client: str, session: str, now_ns: int) -> list[Effect]:
        """A session ended; one that had been replaced changes nothing."""
        effects = self.tick(now_ns)
        if self._sessions.get(client) == session:
            del self._sessions[client]
            self._lost_ns[client] = now_ns
            self._count_clients(now_ns)
        return effects + self.tick(now_ns)

    def refusal(self, offer: Offer, now_ns: int) -> Refusal | None:
        """Say why an update would be refused now; None: it would be taken."""
        current = self._round
        is_open = self.phase is Phase.OPEN and now_ns < (self.deadline_ns or 0)
        grounds = {
            Refusal.UNKNOWN_SESSION: self._sessions.get(offer.client) != offer.session,
            Refusal.FOREIGN_ATTEMPT: offer.attempt != self.attempt,
            Refusal.EARLY: offer.round_num > self.round_num,
            Refusal.LATE: offer.round_num < self.round_num or current is None,
            Refusal.NOT_SELECTED: offer.client not in self.selected,
            Refusal.DUPLICATE: offer.client in self.delivered,
            Refusal.CLOSED: not is_open,
            Refusal.FOREIGN_MODEL: offer.base_digest != self.model_digest,
        }
        return next((name for name, holds in grounds.items() if holds), None)

    def update(self, offer: Offer, now_ns: int) -> tuple[Refusal | None, list[Effect]]:
        """A whole update is there: count it, or say why not."""
        refusal = self.refusal(offer, now_ns)
        if refusal is None:
            assert self._round is not None
            self._round.delivered.add(offer.client)
        return refusal, self.tick(now_ns)

    def decline(
        self, client: str, session: str, round_num: int, now_ns: int
    ) -> list[Effect]:
        """A client has nothing to give to this round: it is not waited for.

        What it delivers all the same still counts.
        """
        effects = self.tick(now_ns)
        is_current = round_num == self.round_num and self._round is not None
        if is_current and self._sessions.get(client) == session:
            assert self._round is not None
            self._round.declined.add(client)
        return effects + self.tick(now_ns)

    def commit_done(
        self, round_num: int, model_digest: str, now_ns: int
    ) -> list[Effect]:
        """The closed round is durable and its model is the next one's base."""
        if self.phase is not Phase.CLOSING or round_num != self.round_num:
            raise ValueError(f"round {round_num} is not being closed")
        self.last_round, self.model_digest = round_num, model_digest
        self._num_tries = 0
        self._gather(now_ns)
        return self.tick(now_ns)

    def commit_failed(self, detail: str) -> list[Effect]:
        """The closed round could not be made durable: the federation ends."""
        return self._finish("error", detail)

    def adopt(self, model_digest: str, now_ns: int) -> list[Effect]:
        """Another model was committed as a round of its own, without members.

        Raises:
            ValueError: a round is open or being closed.
        """
        if self.phase is not Phase.GATHERING:
            raise ValueError(f"the model cannot change while a round is {self.phase}")
        self.last_round, self.model_digest = self.round_num, model_digest
        return self.tick(now_ns)

    def pause(self) -> None:
        """Open no further round until `proceed`."""
        self.is_paused = True

    def proceed(self, now_ns: int) -> list[Effect]:
        """Open rounds again after a pause."""
        self.is_paused = False
        self._short_since_ns = self._enough_since_ns = None
        self._count_clients(now_ns)
        return self.tick(now_ns)

    def stop(self, now_ns: int, *, at_once: bool = False) -> list[Effect]:
        """End after the round that is open, or without it."""
        self._is_stopping = True
        if at_once and self.phase is Phase.OPEN:
            abandoned = Abandon(self.round_num, "stopped", len(self.selected))
            self._gather(now_ns)
            return [abandoned, *self.tick(now_ns)]
        return self.tick(now_ns)

    def tick(self, now_ns: int) -> list[Effect]:
        """Do what has become due."""
        effects: list[Effect] = []
        while step := self._due(now_ns):
            effects += step
        return effects

    def wake_ns(self) -> int | None:
        """When `tick` has something to do at the latest; None: only after a call."""
        if self.phase is Phase.OPEN and self._round is not None:
            grace_over_ns = self._grace_over_ns()
            deadline_ns = self._round.deadline_ns
            return min(deadline_ns, grace_over_ns or deadline_ns)
        if self.phase is not Phase.GATHERING or self.is_paused:
            return None
        if self._enough_since_ns is not None:
            return self._enough_since_ns + self.rules.gather_ns
        if self._short_since_ns is None or self.rules.patience_ns is None:
            return None
        return self._short_since_ns + self.rules.patience_ns

    def _due(self, now_ns: int) -> list[Effect]:
        if self.phase is Phase.GATHERING:
            return self._due_between_rounds(now_ns)
        if self.phase is Phase.OPEN:
            return self._due_in_round(now_ns)
        return []

    def _due_between_rounds(self, now_ns: int) -> list[Effect]:
        if self.last_round >= self.rules.num_rounds:
            return self._finish("completed")
        if self._is_stopping:
            return self._finish("stopped")
        if self.is_paused:
            return []
        if self._enough_since_ns is None:
            return self._due_while_short(now_ns)
        is_everybody = len(self._sessions) >= self.rules.expected_clients
        has_waited = now_ns >= self._enough_since_ns + self.rules.gather_ns
        if self._has_opened or is_everybody or has_waited:
            return [self._open(now_ns)]
        return []

    def _due_while_short(self, now_ns: int) -> list[Effect]:
        patience_ns, since_ns = self.rules.patience_ns, self._short_since_ns
        if patience_ns is None or since_ns is None or now_ns < since_ns + patience_ns:
            return []
        return self._finish(
            "error",
            f"{len(self._sessions)} of at least {self.rules.min_clients} clients "
            f"for {patience_ns / SECOND_NS:.0f} s",
        )

    def _due_in_round(self, now_ns: int) -> list[Effect]:
        current = self._round
        assert current is not None
        has_enough = len(current.delivered) >= self.rules.min_updates
        if has_enough and self._nobody_comes(now_ns):
            return [self._close("complete", now_ns)]
        if not current.waited_for:
            return self._abandon(", and nobody else has one to give", now_ns)
        if now_ns < current.deadline_ns:
            return []
        if has_enough:
            return [self._close("deadline", now_ns)]
        seconds = self.rules.limit_ns / SECOND_NS
        return self._abandon(f" within {seconds:g} s", now_ns)

    def _waited_for(self) -> frozenset[str]:
        return self._round.waited_for if self._round else frozenset()

    def _nobody_comes(self, now_ns: int) -> bool:
        grace_ns = self.rules.return_grace_ns
        return all(
            client not in self._sessions
            and now_ns >= self._lost_ns.get(client, now_ns) + grace_ns
            for client in self._waited_for()
        )

    def _grace_over_ns(self) -> int | None:
        """When the round could end because nobody is waited for any more."""
        waited_for = self._waited_for()
        if waited_for & self.connected or len(self.delivered) < self.rules.min_updates:
            return None
        lost = [self._lost_ns[client] for client in waited_for]
        return max(lost, default=0) + self.rules.return_grace_ns

    def _open(self, now_ns: int) -> Open:
        clients = self._select()
        deadline_ns = now_ns + self.rules.limit_ns
        self._round = _Round(self.round_num, frozenset(clients), now_ns, deadline_ns)
        self.phase, self._has_opened = Phase.OPEN, True
        return Open(self.round_num, clients, self.model_digest, deadline_ns)

    def _select(self) -> tuple[str, ...]:
        """Choose by round, try and seed alone: a replay asks the same clients.

        Another try asks others: those of the last one may never have anything.
        """
        present = sorted(self._sessions)
        wanted = math.ceil(self.rules.client_frac * len(present))
        num_asked = max(self.rules.min_clients, wanted)
        what = f"{self.rules.seed}/{self.round_num}"
        if self._num_tries:
            what += f"/{self._num_tries}"
        choice = random.Random(what)  # noqa: S311 - a reproducible choice, not a secret
        return tuple(sorted(choice.sample(present, num_asked)))

    def _close(self, reason: str, now_ns: int) -> Close:
        current = self._round
        assert current is not None
        self.phase = Phase.CLOSING
        return Close(
            round_num=current.round_num,
            members=tuple(sorted(current.delivered)),
            num_selected=len(current.selected),
            reason=reason,
            opened_ns=current.opened_ns,
            deadline_ns=current.deadline_ns,
            closed_ns=now_ns,
        )

    def _abandon(self, why: str, now_ns: int) -> list[Effect]:
        found, needed = len(self.delivered), self.rules.min_updates
        detail = f"{found} of at least {needed} updates{why}"
        abandoned = Abandon(self.round_num, detail, len(self.selected))
        self._num_tries += 1
        self._gather(now_ns)
        if self._num_tries < self.rules.max_tries:
            return [abandoned]
        return [abandoned, *self._finish("error", f"{detail}, {self._num_tries} times")]

    def _gather(self, now_ns: int) -> None:
        self.phase, self._round = Phase.GATHERING, None
        self._short_since_ns = self._enough_since_ns = None
        self._count_clients(now_ns)

    def _count_clients(self, now_ns: int) -> None:
        """Note since when there have been enough clients, or too few."""
        if len(self._sessions) >= self.rules.min_clients:
            self._short_since_ns = None
            if self._enough_since_ns is None:
                self._enough_since_ns = now_ns
        else:
            self._enough_since_ns = None
            if self._short_since_ns is None:
                self._short_since_ns = now_ns

    def _finish(self, reason: str, detail: str | None = None) -> list[Effect]:
        self.phase, self._round = Phase.FINISHED, None
        return [Finish(reason, detail)]
