"""Pauses double, stay bounded, and differ between clients."""

import random

from hypothesis import given
from hypothesis import strategies as st

from trainer.federated.backoff import FIRST_S, LONGEST_S, Backoff


@given(st.integers(0, 2**32), st.integers(1, 60))
def test_a_pause_is_half_to_all_of_a_doubling_length(seed, num_failures):
    backoff = Backoff(random.Random(seed))

    pauses = [backoff.next_s() for _ in range(num_failures)]

    for index, pause in enumerate(pauses):
        longest = min(LONGEST_S, FIRST_S * 2**index)
        assert longest / 2 <= pause <= longest


def test_a_connection_that_worked_starts_over():
    backoff = Backoff(random.Random(1))
    for _ in range(10):
        backoff.next_s()

    backoff.reset()

    assert backoff.next_s() <= FIRST_S


def test_two_clients_do_not_come_back_together():
    pauses = {Backoff().next_s() for _ in range(20)}

    assert len(pauses) > 10
