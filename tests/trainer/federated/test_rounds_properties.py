"""Whatever order things happen in, rounds keep their promises and end."""

import random

from hypothesis import HealthCheck, assume, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from trainer.federated.rounds import Rounds
from trainer.federated.terms import (
    SECOND_NS,
    Abandon,
    Ask,
    Close,
    Finish,
    Offer,
    Open,
    Phase,
    RoundRules,
)

CLIENTS = ("a", "b", "c", "d")
names = st.sampled_from(CLIENTS)


class Federation(RuleBasedStateMachine):
    """A server that does what it is told, with clients that do anything."""

    @initialize(
        min_clients=st.integers(1, 3),
        frac=st.sampled_from([0.5, 1.0]),
        grace_s=st.integers(0, 4),
        data=st.data(),
    )
    def begin(self, min_clients, frac, grace_s, data):
        self.rules = RoundRules(
            num_rounds=4,
            limit_ns=5 * SECOND_NS,
            min_clients=min_clients,
            min_updates=data.draw(st.integers(1, min_clients)),
            client_frac=frac,
            expected_clients=data.draw(st.integers(0, 4)),
            gather_ns=2 * SECOND_NS,
            return_grace_ns=grace_s * SECOND_NS,
            max_tries=2,
            patience_ns=30 * SECOND_NS,
        )
        self.now_ns = 0
        self.attempt = 1
        self.committed = []
        self.num_sessions = 0
        self.start()

    def start(self):
        """Begin as a server does: from what is durable."""
        last = len(self.committed)
        self.sessions = {}
        self.open = self.closing = self.finished = None
        self.accepted, self.declined = [], set()
        self.machine = Rounds(
            self.rules,
            attempt=self.attempt,
            last_round=last,
            model_digest=f"m{last}",
            now_ns=self.now_ns,
        )
        self.obey(self.machine.tick(self.now_ns))

    def obey(self, effects):
        for effect in effects:
            assert self.finished is None, "something followed the end"
            if isinstance(effect, Open):
                self.obey_open(effect)
            elif isinstance(effect, Ask):
                assert self.open is not None
                assert effect.client in self.open.clients
                assert effect.client not in {*self.accepted, *self.declined}
            elif isinstance(effect, Close):
                self.obey_close(effect)
            elif isinstance(effect, Abandon):
                assert self.open is not None
                assert (
                    self.now_ns >= self.open.deadline_ns
                    or effect.reason == "stopped"
                    or set(self.open.clients) <= {*self.accepted, *self.declined}
                )
                self.open, self.accepted, self.declined = None, [], set()
            else:
                self.finished = effect

    def obey_open(self, effect):
        assert self.open is None
        assert self.closing is None
        assert not self.machine.is_paused
        assert effect.round_num == len(self.committed) + 1
        assert effect.model_digest == f"m{len(self.committed)}"
        assert set(effect.clients) <= self.sessions.keys()
        assert len(effect.clients) >= self.rules.min_clients
        assert effect.deadline_ns == self.now_ns + self.rules.limit_ns
        self.open, self.accepted, self.declined = effect, [], set()

    def obey_close(self, effect):
        assert self.open is not None
        assert effect.round_num == self.open.round_num
        assert list(effect.members) == sorted(self.accepted)
        assert set(effect.members) <= set(self.open.clients)
        assert len(effect.members) >= self.rules.min_updates
        assert self.now_ns <= self.open.deadline_ns or effect.reason == "deadline"
        self.open, self.closing = None, effect

    @rule(client=names)
    def join(self, client):
        self.num_sessions += 1
        self.sessions[client] = f"s{self.num_sessions}"
        self.obey(self.machine.join(client, self.sessions[client], self.now_ns))

    @rule(client=names, is_stale=st.booleans())
    def lose(self, client, is_stale):
        session = "stale" if is_stale else self.sessions.get(client, "none")
        if not is_stale:
            self.sessions.pop(client, None)
        self.obey(self.machine.lose(client, session, self.now_ns))

    @precondition(lambda self: self.open is not None)
    @rule(client=names, num_times=st.integers(1, 2))
    def deliver(self, client, num_times):
        assume(client in self.sessions)
        self.offer(client, self.open.round_num, self.attempt, self.open.model_digest)
        for _ in range(num_times - 1):
            before = list(self.accepted)
            self.offer(client, self.machine.round_num, self.attempt, "any")
            assert self.accepted == before

    @precondition(lambda self: self.open is not None)
    @rule(client=names, is_current=st.booleans())
    def decline(self, client, is_current):
        round_num = self.open.round_num + (not is_current)
        session = self.sessions.get(client)
        if is_current and session is not None:
            self.declined.add(client)
        self.obey(
            self.machine.decline(client, session or "none", round_num, self.now_ns)
        )

    @rule(
        client=names,
        round_num=st.integers(1, 5),
        attempt=st.integers(1, 3),
        base=st.sampled_from(["m0", "m1", "m2", "m3", "x"]),
        is_stale=st.booleans(),
    )
    def offer_anything(self, client, round_num, attempt, base, is_stale):
        session = "stale" if is_stale else None
        self.offer(client, round_num, attempt, base, session)

    def offer(self, client, round_num, attempt, base, session=None):
        was_open = self.open
        fits = (
            was_open is not None
            and session is None
            and client in self.sessions
            and client in was_open.clients
            and client not in self.accepted
            and round_num == was_open.round_num
            and attempt == self.attempt
            and base == was_open.model_digest
            and self.now_ns < was_open.deadline_ns
        )
        given = Offer(
            client=client,
            session=session or self.sessions.get(client, "none"),
            round_num=round_num,
            attempt=attempt,
            base_digest=base,
        )
        assert (self.machine.refusal(given, self.now_ns) is None) == fits
        if fits:
            self.accepted.append(client)
        refusal, effects = self.machine.update(given, self.now_ns)
        assert (refusal is None) == fits
        self.obey(effects)

    @rule(ns=st.integers(1, 8 * SECOND_NS))
    def let_time_pass(self, ns):
        """Wake when asked to, as a server does, and never later."""
        until_ns = self.now_ns + ns
        while (wake_ns := self.machine.wake_ns()) is not None and wake_ns <= until_ns:
            assert wake_ns >= self.now_ns
            self.now_ns = wake_ns
            effects = self.machine.tick(self.now_ns)
            assert effects, "woken for nothing"
            self.obey(effects)
        self.now_ns = until_ns
        assert self.machine.tick(self.now_ns) == []

    @precondition(lambda self: self.closing is not None)
    @rule()
    def commit(self):
        self.committed.append(self.closing.members)
        self.closing = None
        last = len(self.committed)
        self.obey(self.machine.commit_done(last, f"m{last}", self.now_ns))

    @precondition(lambda self: self.finished is None)
    @rule()
    def pause(self):
        self.machine.pause()

    @rule()
    def proceed(self):
        self.obey(self.machine.proceed(self.now_ns))

    @rule(at_once=st.booleans(), is_meant=st.sampled_from([False, False, True]))
    def stop(self, at_once, is_meant):
        if is_meant:
            self.obey(self.machine.stop(self.now_ns, at_once=at_once))

    @rule()
    def kill_and_restart_the_server(self):
        self.attempt += 1
        self.start()

    @invariant()
    def phases_and_effects_agree(self):
        if not hasattr(self, "machine"):
            return
        phase = self.machine.phase
        assert (phase is Phase.OPEN) == (self.open is not None)
        assert (phase is Phase.CLOSING) == (self.closing is not None)
        assert (phase is Phase.FINISHED) == (self.finished is not None)

    @invariant()
    def no_open_round_is_past_its_deadline(self):
        if getattr(self, "open", None) is not None:
            assert self.now_ns < self.open.deadline_ns

    def teardown(self):
        """However it was left, it ends by itself once nothing keeps it."""
        if not hasattr(self, "machine"):
            return
        self.proceed()
        for _ in range(100):
            if self.finished is not None:
                break
            if self.closing is not None:
                self.commit()
            else:
                wake_ns = self.machine.wake_ns()
                assert wake_ns is not None, "it waits for nothing"
                self.now_ns = wake_ns
                self.obey(self.machine.tick(wake_ns))
        assert isinstance(self.finished, Finish)


TestFederation = Federation.TestCase
TestFederation.settings = settings(
    max_examples=150,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
    derandomize=True,
)


def test_the_choice_of_clients_does_not_touch_the_programs_own_random_numbers():
    random.seed(1)
    before = random.getstate()

    machine = Rounds(
        RoundRules(num_rounds=1, client_frac=0.5),
        attempt=1,
        last_round=0,
        model_digest="m0",
        now_ns=0,
    )
    machine.join("a", "s", 0)

    assert random.getstate() == before
