"""The rounds of a federation as a state machine: who is asked, what counts, when.

It does no I/O and has no clock: every call brings the time, and returns what
the server has to do. Time is nanoseconds of the server's own monotonic clock.
A round ends at its deadline whoever is silent; an update that arrives at the
deadline is late. One owner calls it, from one thread.
"""

from trainer.federated.open_round import OpenRound, choose_clients
from trainer.federated.presence import Presence
from trainer.federated.terms import (
    SECOND_NS,
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
        self._presence = Presence(rules.min_clients, now_ns)
        self._round: OpenRound | None = None
        self._num_tries = 0
        self._has_opened = False

    @property
    def round_num(self) -> int:
        """The round that is open, being closed, or next; counted from 1."""
        return self.last_round + 1

    @property
    def connected(self) -> frozenset[str]:
        """Clients with a session."""
        return self._presence.clients

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
        self._presence.join(client, session, now_ns)
        if self.phase is Phase.OPEN and client in self._waited_for():
            effects.append(Ask(self.round_num, client))
        return effects + self.tick(now_ns)

    def lose(self, client: str, session: str, now_ns: int) -> list[Effect]:
        """A session ended; one that had been replaced changes nothing."""
        effects = self.tick(now_ns)
        self._presence.lose(client, session, now_ns)
        return effects + self.tick(now_ns)

    def refusal(self, offer: Offer, now_ns: int) -> Refusal | None:
        """Say why an update would be refused now; None: it would be taken."""
        current = self._round
        is_open = self.phase is Phase.OPEN and now_ns < (self.deadline_ns or 0)
        is_known = self._presence.is_from(offer.client, offer.session)
        grounds = {
            Refusal.UNKNOWN_SESSION: not is_known,
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
        if is_current and self._presence.is_from(client, session):
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

    def fail(self, detail: str) -> list[Effect]:
        """No round can be made durable any more: the federation ends."""
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
        self._presence.begin_counting(now_ns)
        return self.tick(now_ns)

    def stop(self, now_ns: int, *, at_once: bool = False) -> list[Effect]:
        """End after the round that is open, or without it."""
        self._is_stopping = True
        if at_once and self.phase is Phase.OPEN and self._round is not None:
            abandoned = self._round.abandon("stopped")
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
        enough_since_ns = self._presence.enough_since_ns
        if enough_since_ns is not None:
            return enough_since_ns + self.rules.gather_ns
        short_since_ns = self._presence.short_since_ns
        patience_ns = self.rules.patience_ns
        if short_since_ns is None or patience_ns is None:
            return None
        return short_since_ns + patience_ns

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
        enough_since_ns = self._presence.enough_since_ns
        if enough_since_ns is None:
            return self._due_while_short(now_ns)
        is_everybody = len(self._presence) >= self.rules.expected_clients
        has_waited = now_ns >= enough_since_ns + self.rules.gather_ns
        if self._has_opened or is_everybody or has_waited:
            return [self._open(now_ns)]
        return []

    def _due_while_short(self, now_ns: int) -> list[Effect]:
        patience_ns, since_ns = self.rules.patience_ns, self._presence.short_since_ns
        if patience_ns is None or since_ns is None or now_ns < since_ns + patience_ns:
            return []
        return self._finish(
            "error",
            f"{len(self._presence)} of at least {self.rules.min_clients} clients "
            f"for {patience_ns / SECOND_NS:.0f} s",
        )

    def _due_in_round(self, now_ns: int) -> list[Effect]:
        current = self._round
        assert current is not None
        has_enough = len(current.delivered) >= self.rules.min_updates
        if has_enough and self._nobody_comes(now_ns):
            return [self._close(current, "complete", now_ns)]
        if not current.waited_for:
            return self._abandon(current, ", and nobody else has one to give", now_ns)
        if now_ns < current.deadline_ns:
            return []
        if has_enough:
            return [self._close(current, "deadline", now_ns)]
        seconds = self.rules.limit_ns / SECOND_NS
        return self._abandon(current, f" within {seconds:g} s", now_ns)

    def _waited_for(self) -> frozenset[str]:
        return self._round.waited_for if self._round else frozenset()

    def _nobody_comes(self, now_ns: int) -> bool:
        grace_ns = self.rules.return_grace_ns
        return all(
            self._presence.is_given_up(client, grace_ns, now_ns)
            for client in self._waited_for()
        )

    def _grace_over_ns(self) -> int | None:
        """When the round could end because nobody is waited for any more."""
        waited_for = self._waited_for()
        if waited_for & self.connected or len(self.delivered) < self.rules.min_updates:
            return None
        lost = [self._presence.lost_ns(client) for client in waited_for]
        return max(lost, default=0) + self.rules.return_grace_ns

    def _open(self, now_ns: int) -> Open:
        round_num, deadline_ns = self.round_num, now_ns + self.rules.limit_ns
        clients = choose_clients(
            self._presence.clients, self.rules, round_num, self._num_tries
        )
        self._round = OpenRound(round_num, frozenset(clients), now_ns, deadline_ns)
        self.phase, self._has_opened = Phase.OPEN, True
        return Open(round_num, clients, self.model_digest, deadline_ns)

    def _close(self, current: OpenRound, reason: str, now_ns: int) -> Close:
        self.phase = Phase.CLOSING
        return current.close(reason, now_ns)

    def _abandon(self, current: OpenRound, why: str, now_ns: int) -> list[Effect]:
        found, needed = len(current.delivered), self.rules.min_updates
        detail = f"{found} of at least {needed} updates{why}"
        self._num_tries += 1
        self._gather(now_ns)
        abandoned = current.abandon(detail)
        if self._num_tries < self.rules.max_tries:
            return [abandoned]
        return [abandoned, *self._finish("error", f"{detail}, {self._num_tries} times")]

    def _gather(self, now_ns: int) -> None:
        self.phase, self._round = Phase.GATHERING, None
        self._presence.begin_counting(now_ns)

    def _finish(self, reason: str, detail: str | None = None) -> list[Effect]:
        self.phase, self._round = Phase.FINISHED, None
        return [Finish(reason, detail)]
