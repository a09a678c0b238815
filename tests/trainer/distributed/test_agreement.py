"""What all ranks agree on at every step."""

import math
import os
import signal
import threading

import pytest

from tests.ranks import alone, on_ranks
from trainer.distributed.agreement import (
    StepPart,
    StopFlag,
    Want,
    agree_on_step,
    stop_on_signals,
)
from trainer.distributed.verdict import publish_failure


def bring(world, parts):
    loss_sum, num_samples, num_tokens, wants = parts[world.rank]
    part = StepPart(loss_sum, num_samples, num_tokens, frozenset(map(Want, wants)))
    agreed = agree_on_step(world, part)
    return [agreed.loss, agreed.num_samples, agreed.num_tokens, set(agreed.wants)]


@pytest.mark.dist
def test_the_loss_is_the_mean_over_all_samples_and_tokens_add_up():
    parts = [(6.0, 3, 300, []), (1.0, 1, 100, []), (0.0, 0, 0, [])]

    ended = on_ranks(3, bring, parts)

    assert [end.value for end in ended] == [[7.0 / 4, 4, 400, set()]] * 3


@pytest.mark.dist
def test_what_any_rank_wants_all_know():
    parts = [(1.0, 1, 1, []), (1.0, 1, 1, [Want.STOP]), (1.0, 1, 1, [Want.SAVE])]

    ended = on_ranks(3, bring, parts)

    assert [end.value[3] for end in ended] == [{Want.STOP, Want.SAVE}] * 3


@pytest.mark.dist
def test_a_loss_that_is_not_a_number_on_one_rank_is_none_on_all():
    parts = [(1.0, 1, 1, []), (math.nan, 1, 1, [])]

    ended = on_ranks(2, bring, parts)

    assert all(math.isnan(end.value[0]) for end in ended)


def leave_with_a_reason(world):
    if world.rank == 1:
        publish_failure(world, ValueError("no more"))
        return None
    return bring(world, [(1.0, 1, 1, [])])


@pytest.mark.dist
def test_a_rank_that_left_with_a_reason_is_not_a_broken_connection():
    ended = on_ranks(2, leave_with_a_reason)

    assert ended[0].error == "rank 1 failed: ValueError: no more"


def leave_without_a_word(world):
    if world.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return bring(world, [(1.0, 1, 1, [])])


@pytest.mark.dist
def test_a_rank_that_was_killed_is_missed():
    ended = on_ranks(2, leave_without_a_word)

    assert ended[0].kind == "RankMissingError"
    assert "a rank left in the middle of a step" in ended[0].error


def test_alone_the_agreement_is_what_one_brings():
    agreed = agree_on_step(alone(), StepPart(3.0, 2, 20, frozenset({Want.SAVE})))

    assert agreed == (1.5, 2, 20, frozenset({Want.SAVE}), 0)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_only_raises_a_flag_and_handlers_come_back(signum):
    before = signal.getsignal(signum)

    with stop_on_signals() as flag:
        assert flag.wants == frozenset()
        signal.raise_signal(signum)
        signal.raise_signal(signal.SIGTERM)
        assert flag.wants == {Want.STOP}
        assert flag.signum == signum

    assert signal.getsignal(signum) is before


def test_outside_the_main_thread_there_is_a_flag_without_signals():
    found = []

    def enter():
        with stop_on_signals() as flag:
            found.append(flag)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()

    assert isinstance(found[0], StopFlag)
