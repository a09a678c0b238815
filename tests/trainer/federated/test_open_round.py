"""Who is asked in a round follows from the round, the try and the seed alone."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.federated.open_round import OpenRound, choose_clients
from trainer.federated.terms import RoundRules

KEYS = tuple(f"client-{number}" for number in range(20))
RULES = RoundRules(num_rounds=9, min_clients=3, client_frac=0.25, seed=7)


@given(st.permutations(KEYS), st.integers(1, 9), st.integers(0, 4))
def test_the_order_in_which_clients_came_chooses_nobody(came, round_num, num_tries):
    asked = choose_clients(came, RULES, round_num, num_tries)

    assert asked == choose_clients(KEYS, RULES, round_num, num_tries)
    assert asked == tuple(sorted(asked))
    assert len(set(asked)) == 5


@pytest.mark.parametrize(("num_present", "num_asked"), [(3, 3), (4, 3), (13, 4)])
def test_a_share_is_asked_and_never_fewer_than_a_round_needs(num_present, num_asked):
    assert len(choose_clients(KEYS[:num_present], RULES, 1, 0)) == num_asked


def test_another_round_another_try_and_another_seed_ask_others():
    other_seed = dataclasses.replace(RULES, seed=8)

    asked = {
        choose_clients(KEYS, rules, round_num, num_tries)
        for rules in (RULES, other_seed)
        for round_num in (1, 2)
        for num_tries in (0, 1)
    }

    assert len(asked) == 8


def test_who_has_declined_is_a_member_all_the_same_if_an_update_comes():
    current = OpenRound(4, frozenset(KEYS[:3]), opened_ns=1, deadline_ns=9)
    current.declined |= {KEYS[0], KEYS[1]}
    current.delivered |= {KEYS[1], KEYS[2]}

    close = current.close("complete", 5)

    assert current.waited_for == frozenset()
    assert close.members == (KEYS[1], KEYS[2])
    assert (close.num_selected, close.closed_ns) == (3, 5)
