"""What the machine of rounds does, one situation at a time."""

import pytest

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
    Refusal,
    RoundRules,
)

LIMIT_NS = 5 * SECOND_NS


def rules(**changes):
    values = {
        "num_rounds": 3,
        "limit_ns": LIMIT_NS,
        "min_clients": 2,
        "expected_clients": 3,
        "gather_ns": SECOND_NS,
        "return_grace_ns": SECOND_NS,
        "max_tries": 2,
        "patience_ns": 20 * SECOND_NS,
    }
    return RoundRules(**(values | changes))


def begin(*clients, now_ns=0, last_round=0, **changes):
    machine = Rounds(
        rules(**changes),
        attempt=1,
        last_round=last_round,
        model_digest=f"m{last_round}",
        now_ns=now_ns,
    )
    effects = []
    for client in clients:
        effects += machine.join(client, f"{client}/1", now_ns)
    return machine, effects


def offer(client, round_num=1, session=1, attempt=1, base=None):
    return Offer(
        client=client,
        session=f"{client}/{session}",
        round_num=round_num,
        attempt=attempt,
        base_digest=base or f"m{round_num - 1}",
    )


def test_the_first_round_opens_as_soon_as_everybody_expected_is_there():
    machine, effects = begin("a", "b")

    effects += machine.join("c", "c/1", 7)

    assert effects == [Open(1, ("a", "b", "c"), "m0", 7 + LIMIT_NS)]


def test_the_first_round_opens_without_a_missing_client_after_the_gathering_time():
    machine, effects = begin("a", "b")
    wake_ns = machine.wake_ns()

    early = machine.tick(SECOND_NS - 1)
    effects += early + machine.tick(wake_ns)

    assert wake_ns == SECOND_NS
    assert early == []
    assert effects == [Open(1, ("a", "b"), "m0", SECOND_NS + LIMIT_NS)]


def test_a_round_closes_when_all_that_were_asked_have_delivered():
    machine, _ = begin("a", "b", "c")

    verdicts = [machine.update(offer(client), 10) for client in "cab"]

    assert [refusal for refusal, _ in verdicts] == [None] * 3
    assert [effects for _, effects in verdicts[:2]] == [[], []]
    assert verdicts[2][1] == [Close(1, ("a", "b", "c"), 3, "complete", 0, LIMIT_NS, 10)]


def test_a_round_ends_at_its_deadline_whoever_is_silent():
    machine, _ = begin("a", "b", "c")
    machine.update(offer("a"), 10)

    early = machine.tick(LIMIT_NS - 1)
    due = machine.tick(machine.wake_ns())

    assert early == []
    assert due == [Close(1, ("a",), 3, "deadline", 0, LIMIT_NS, LIMIT_NS)]


def test_an_update_at_the_deadline_is_too_late_even_before_the_tick():
    machine, _ = begin("a", "b", "c")
    machine.update(offer("a"), 10)

    refusal, effects = machine.update(offer("b"), LIMIT_NS)

    assert refusal is Refusal.CLOSED
    assert [effect.members for effect in effects] == [("a",)]


def test_a_round_without_enough_updates_is_opened_again_and_then_given_up():
    machine, _ = begin("a", "b", "c")

    first = machine.tick(LIMIT_NS)
    second = machine.tick(2 * LIMIT_NS)

    detail = "0 of at least 1 updates within 5 s"
    assert first == [
        Abandon(1, detail, 3),
        Open(1, ("a", "b", "c"), "m0", 2 * LIMIT_NS),
    ]
    assert second == [
        Abandon(1, detail, 3),
        Finish("error", f"{detail}, 2 times"),
    ]


def test_a_client_that_has_nothing_to_give_does_not_hold_its_round_up():
    machine, _ = begin("a", "b", "c")
    machine.update(offer("a"), 10)
    machine.update(offer("b"), 20)

    effects = machine.decline("c", "c/1", 1, 30)

    assert effects == [Close(1, ("a", "b"), 3, "complete", 0, LIMIT_NS, 30)]


def test_a_round_that_nobody_has_anything_to_give_to_is_abandoned_at_once():
    machine, _ = begin("a", "b", "c")

    effects = [machine.decline(client, f"{client}/1", 1, 30) for client in "abc"]

    detail = "0 of at least 1 updates, and nobody else has one to give"
    assert effects[:2] == [[], []]
    assert effects[2] == [
        Abandon(1, detail, 3),
        Open(1, ("a", "b", "c"), "m0", 30 + LIMIT_NS),
    ]


@pytest.mark.parametrize(("session", "round_num"), [("c/0", 1), ("c/1", 2)])
def test_who_declines_another_round_or_has_left_is_still_waited_for(session, round_num):
    machine, _ = begin("a", "b", "c")
    machine.update(offer("a"), 10)
    machine.update(offer("b"), 20)

    assert machine.decline("c", session, round_num, 30) == []
    assert machine.phase is Phase.OPEN


def test_who_declined_may_still_deliver_and_is_not_asked_again():
    machine, _ = begin("a", "b", "c")
    machine.decline("c", "c/1", 1, 10)

    machine.lose("c", "c/1", 20)
    effects = machine.join("c", "c/2", 30)
    refusal, _ = machine.update(offer("c", session=2), 40)

    assert effects == []
    assert refusal is None
    assert machine.delivered == {"c"}


def test_an_update_from_the_abandoned_try_of_a_round_still_counts():
    machine, _ = begin("a", "b", "c")
    machine.tick(LIMIT_NS)

    refusal, _ = machine.update(offer("a"), LIMIT_NS + 1)

    assert refusal is None


def test_a_lost_client_holds_its_round_up_for_the_grace_only():
    machine, _ = begin("a", "b", "c")
    machine.update(offer("a"), 10)
    machine.update(offer("b"), 10)
    machine.lose("c", "c/1", 20)

    wake_ns = machine.wake_ns()
    early = machine.tick(wake_ns - 1)
    due = machine.tick(wake_ns)

    assert wake_ns == 20 + SECOND_NS
    assert early == []
    assert [effect.reason for effect in due] == ["complete"]


def test_the_grace_counts_from_the_last_loss_and_only_once_enough_have_delivered():
    machine, _ = begin("a", "b", "c", return_grace_ns=2 * SECOND_NS)
    machine.lose("b", "b/1", 20)
    machine.lose("c", "c/1", 30)

    without_updates = machine.wake_ns()
    machine.update(offer("a"), 40)
    with_one = machine.wake_ns()

    assert without_updates == LIMIT_NS
    assert with_one == 30 + 2 * SECOND_NS
    assert machine.tick(with_one - 1) == []
    assert [effect.members for effect in machine.tick(with_one)] == [("a",)]


def test_a_client_that_returns_within_its_round_is_asked_again_and_counts():
    machine, _ = begin("a", "b", "c")
    machine.lose("c", "c/1", 20)

    asked = machine.join("c", "c/2", 30)
    refusal, _ = machine.update(offer("c", session=2), 40)

    assert asked == [Ask(1, "c")]
    assert refusal is None


def test_a_client_that_has_delivered_is_not_asked_again_when_it_returns():
    machine, _ = begin("a", "b", "c")
    machine.update(offer("c"), 10)
    machine.lose("c", "c/1", 20)

    asked = machine.join("c", "c/2", 30)

    assert asked == []
    assert machine.delivered == {"c"}


def test_a_newcomer_waits_for_the_next_round():
    machine, _ = begin("a", "b", "c")

    effects = machine.join("d", "d/1", 5)
    refusal, _ = machine.update(offer("d"), 6)

    assert effects == []
    assert refusal is Refusal.NOT_SELECTED


def test_a_late_goodbye_of_a_replaced_session_does_not_lose_the_client():
    machine, _ = begin("a", "b", "c")
    machine.join("c", "c/2", 10)

    machine.lose("c", "c/1", 20)

    assert "c" in machine.connected


@pytest.mark.parametrize(
    ("changes", "refusal"),
    [
        ({"session": 9}, Refusal.UNKNOWN_SESSION),
        ({"attempt": 2}, Refusal.FOREIGN_ATTEMPT),
        ({"round_num": 3}, Refusal.EARLY),
        ({"round_num": 1}, Refusal.LATE),
        ({"base": "m7"}, Refusal.FOREIGN_MODEL),
    ],
)
def test_an_update_that_does_not_fit_is_refused_by_name(changes, refusal):
    machine, _ = begin("a", "b", "c", last_round=1)

    found, effects = machine.update(offer("a", **({"round_num": 2} | changes)), 5)

    assert found is refusal
    assert effects == []
    assert machine.delivered == frozenset()


def test_the_same_update_twice_counts_once():
    machine, _ = begin("a", "b", "c")
    machine.update(offer("a"), 5)

    again, _ = machine.update(offer("a"), 6)

    assert again is Refusal.DUPLICATE
    assert machine.delivered == {"a"}


def test_a_duplicate_is_known_as_one_while_its_round_is_being_closed():
    machine, _ = begin("a", "b", "c")
    for client in "abc":
        machine.update(offer(client), 5)

    again, _ = machine.update(offer("a"), 6)

    assert machine.phase is Phase.CLOSING
    assert again is Refusal.DUPLICATE


def test_the_next_round_opens_from_the_committed_model():
    machine, _ = begin("a", "b", "c")
    for client in "abc":
        machine.update(offer(client), 5)

    effects = machine.commit_done(1, "m1", 8)

    assert effects == [Open(2, ("a", "b", "c"), "m1", 8 + LIMIT_NS)]


def test_a_restarted_server_goes_on_after_the_last_committed_round():
    _, effects = begin("a", "b", "c", last_round=2)

    assert effects == [Open(3, ("a", "b", "c"), "m2", LIMIT_NS)]


def test_a_restart_after_the_last_round_finishes_at_once():
    machine, _ = begin(last_round=3)

    effects = machine.tick(1)

    assert effects == [Finish("completed")]


def test_too_few_clients_are_waited_for_with_patience_and_not_for_ever():
    machine, _ = begin("a", now_ns=5)

    wake_ns = machine.wake_ns()
    early = machine.tick(wake_ns - 1)
    due = machine.tick(wake_ns)

    assert wake_ns == 5 + 20 * SECOND_NS
    assert early == []
    assert due == [Finish("error", "1 of at least 2 clients for 20 s")]


def test_without_a_limit_to_patience_it_waits_for_ever():
    machine, _ = begin("a", patience_ns=None)

    effects = machine.tick(10**6 * SECOND_NS)

    assert machine.wake_ns() is None
    assert effects == []


def test_patience_begins_anew_after_a_pause():
    machine, _ = begin("a")
    machine.pause()

    machine.proceed(90 * SECOND_NS)

    assert machine.wake_ns() == 110 * SECOND_NS


def test_only_the_round_that_is_being_closed_can_be_committed():
    machine, _ = begin("a", "b", "c")

    with pytest.raises(ValueError, match="round 1 is not being closed"):
        machine.commit_done(1, "m1", 5)
    for client in "abc":
        machine.update(offer(client), 5)
    with pytest.raises(ValueError, match="round 2 is not being closed"):
        machine.commit_done(2, "m2", 6)


def test_a_round_that_cannot_be_committed_ends_the_federation():
    machine, _ = begin("a", "b", "c")
    for client in "abc":
        machine.update(offer(client), 5)

    effects = machine.fail("the disk is full")

    assert effects == [Finish("error", "the disk is full")]
    assert machine.join("d", "d/1", 6) == []


def test_a_pause_lets_the_open_round_end_and_opens_none():
    machine, _ = begin("a", "b", "c")
    machine.pause()
    for client in "abc":
        machine.update(offer(client), 5)

    paused = machine.commit_done(1, "m1", 8)
    wake_ns = machine.wake_ns()
    effects = machine.proceed(60 * SECOND_NS)

    assert paused == []
    assert wake_ns is None
    assert [type(effect) for effect in effects] == [Open]


def test_a_stop_waits_for_the_open_round_unless_it_is_at_once():
    gently, _ = begin("a", "b", "c")
    hard, _ = begin("a", "b", "c")

    first = gently.stop(5)
    second = hard.stop(5, at_once=True)

    assert first == []
    assert second == [Abandon(1, "stopped", 3), Finish("stopped")]
    for client in "abc":
        gently.update(offer(client), 6)
    assert gently.commit_done(1, "m1", 7) == [Finish("stopped")]


def test_part_of_the_clients_is_chosen_by_seed_and_round_alone():
    many = [f"client-{index}" for index in range(10)]
    one, first = begin(*many, client_frac=0.3, expected_clients=10)
    _, again = begin(*reversed(many), client_frac=0.3, expected_clients=10)

    for client in first[0].clients:
        one.update(offer(client), 5)
    second = one.commit_done(1, "m1", 6)

    assert first[0].clients == again[0].clients
    assert len(first[0].clients) == 3
    assert second[0].clients != first[0].clients


def test_another_try_asks_other_clients():
    """One that never has anything to give must not use up every try."""
    many = [f"c{n}" for n in range(10)]
    machine, effects = begin(
        *many, client_frac=0.1, min_clients=1, expected_clients=10, max_tries=20
    )

    asked = set()
    for _ in range(19):
        (opened,) = [effect for effect in effects if isinstance(effect, Open)]
        asked |= set(opened.clients)
        effects = machine.tick(opened.deadline_ns)

    assert len(asked) > 5


def test_the_model_is_changed_between_rounds_only():
    machine, _ = begin("a", "b", "c")

    with pytest.raises(ValueError, match="while a round is open"):
        machine.adopt("other", 5)


def test_another_model_takes_the_number_of_a_round():
    machine, _ = begin("a", "b", "c")
    machine.pause()
    for client in "abc":
        machine.update(offer(client), 5)
    machine.commit_done(1, "m1", 8)

    adopted = machine.adopt("other", 9)
    effects = machine.proceed(10)

    assert adopted == []
    assert effects == [Open(3, ("a", "b", "c"), "other", 10 + LIMIT_NS)]


def test_rules_that_cannot_be_kept_are_refused():
    with pytest.raises(ValueError, match="min_updates"):
        rules(min_clients=1, min_updates=2)
