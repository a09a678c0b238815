"""Which state a client may keep when it comes back, case by case."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.federated.session import (
    Loss,
    Standing,
    Trained,
    acknowledge,
    begin,
    change_state,
    finish_training,
    settle,
)


def after(round_num, state="s"):
    return Standing(acked_round=round_num, fresh_round=round_num, state=state)


def trained(standing, round_num, attempt=1, state="new"):
    return finish_training(standing, round_num=round_num, attempt=attempt, state=state)


def test_a_newcomer_loses_nothing_however_late_it_comes():
    settled = settle(Standing(), server_acked=None, attempt=1, last_round=6)

    assert settled.loss is None
    assert settled.standing == Standing(fresh_round=6)


def test_a_short_cut_between_rounds_costs_nothing():
    settled = settle(after(4), server_acked=4, attempt=1, last_round=4)

    assert settled.loss is None
    assert settled.standing == after(4)


def test_a_missed_round_costs_the_state():
    settled = settle(after(4), server_acked=4, attempt=1, last_round=7)

    assert settled.loss == Loss("reconnected after missing 3 rounds", 3)
    assert settled.standing.fresh_round == 7
    assert settled.standing.acked_round == 4


def test_a_loss_is_told_once():
    settled = settle(after(4), server_acked=4, attempt=1, last_round=7)
    reset = change_state(settled.standing, lambda _: None)

    again = settle(reset, server_acked=4, attempt=1, last_round=7)
    task = begin(reset, 8)

    assert again.loss is None
    assert task.loss is None


def test_an_acknowledgement_that_was_not_heard_is_caught_up_on_return():
    standing = trained(after(4), 5)

    settled = settle(standing, server_acked=5, attempt=1, last_round=5)

    assert settled.loss is None
    assert settled.standing == after(5, "new")


def test_a_round_that_is_still_open_keeps_what_was_trained_for_it():
    standing = trained(after(4), 5)

    settled = settle(standing, server_acked=4, attempt=1, last_round=4)

    assert settled.loss is None
    assert settled.standing == standing


def test_a_restarted_server_takes_back_what_it_has_not_committed():
    standing = trained(after(4), 5, attempt=1)

    settled = settle(standing, server_acked=4, attempt=2, last_round=4)

    assert settled.loss is None
    assert settled.standing == after(4)


def test_an_update_that_came_too_late_counts_as_a_missed_round():
    standing = trained(after(4), 5)

    settled = settle(standing, server_acked=4, attempt=1, last_round=5)

    assert settled.loss == Loss("reconnected after missing 1 round", 1)
    assert settled.standing.trained is None
    assert settled.standing.state == "s"


def test_a_client_that_lost_its_state_starts_over():
    settled = settle(Standing(), server_acked=3, attempt=1, last_round=3)

    assert settled.loss == Loss(
        "restarted without the state of round 3, the last acknowledged", 0
    )
    assert settled.standing == Standing(acked_round=3, fresh_round=3)


@pytest.mark.parametrize(
    ("server_acked", "told"), [(None, "none"), (2, "round 2"), (9, "round 9")]
)
def test_a_state_that_the_server_does_not_know_is_not_used(server_acked, told):
    settled = settle(after(4), server_acked=server_acked, attempt=1, last_round=9)

    assert settled.loss.reason == (
        f"the state is of round 4, the server acknowledged {told}"
    )
    assert settled.standing.state is None


def test_a_round_that_this_client_sat_out_costs_the_state_too():
    settled = begin(after(4), 7)

    assert settled.loss == Loss("missed 2 rounds", 2)
    assert settled.standing.fresh_round == 6


@pytest.mark.parametrize(
    ("last_round", "restored_round", "reason"),
    [
        (4, 4, "another model was restored as round 4"),
        (
            5,
            4,
            "reconnected after missing 2 rounds; another model was restored as round 4",
        ),
        (4, 2, "reconnected after missing 1 round"),
    ],
)
def test_a_restored_model_is_named_as_the_cause_to_whom_it_is_new(
    last_round, restored_round, reason
):
    settled = settle(
        after(3),
        server_acked=3,
        attempt=1,
        last_round=last_round,
        restored_round=restored_round,
    )

    assert settled.loss.reason == reason


def test_the_next_round_follows_without_loss():
    settled = begin(after(4), 5)

    assert settled.loss is None


def test_training_the_same_round_again_starts_from_the_acknowledged_state():
    settled = begin(trained(after(4), 5), 5)

    assert settled.loss is None
    assert settled.standing == after(4)


def test_only_what_was_trained_for_a_round_is_acknowledged_by_it():
    standing = trained(after(4), 5)

    assert acknowledge(standing, 4) == standing
    assert acknowledge(standing, 6) == standing
    assert acknowledge(after(4), 5) == after(4)


def test_a_client_without_a_state_has_none_to_change():
    assert change_state(Standing(), lambda _: "x") == Standing()
    assert change_state(after(1), lambda s: s + "!").state == "s!"


@given(st.data())
def test_state_is_used_only_for_the_round_right_after_the_one_it_is_of(data):
    """A client that is cut, restarted and passed over in any order."""
    standing, server_acked, last_round, attempt = Standing(), None, 0, 1
    for round_num in range(1, data.draw(st.integers(1, 8)) + 1):
        what = data.draw(
            st.sampled_from(
                ["takes part", "late", "absent", "server restarts", "wiped"]
            )
        )
        if what == "server restarts":
            attempt += 1
        if what == "wiped":
            standing = Standing()
        if what == "absent":
            last_round = round_num
            continue
        settled = settle(
            standing, server_acked=server_acked, attempt=attempt, last_round=last_round
        )
        standing = settled.standing
        if settled.loss is not None:
            standing = change_state(standing, lambda _: None)
        settled = begin(standing, round_num)
        assert settled.loss is None, "the return had already told"
        state = settled.standing.state
        assert state in (None, round_num - 1)
        standing = finish_training(
            settled.standing, round_num=round_num, attempt=attempt, state=round_num
        )
        if what != "late":
            server_acked = round_num
        if what != "late" and data.draw(st.booleans()):
            standing = acknowledge(standing, round_num)
        last_round = round_num


def test_what_was_trained_is_known_by_round_and_attempt():
    standing = trained(Standing(), 1, attempt=3)

    assert standing.trained == Trained(round_num=1, attempt=3, state="new")
