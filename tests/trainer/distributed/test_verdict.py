"""Verdicts on real process groups: all go on, or all raise the same error."""

import os
import signal
import time

import pytest
import torch
import torch.distributed as dist

from agent.rundir.errors import DamagedCheckpointError, LockedError
from tests.ranks import alone, on_ranks
from trainer.distributed.barriers import barrier_safe, named_barrier
from trainer.distributed.verdict import (
    from_main,
    publish_failure,
    published_failure,
    verdict,
)
from trainer.settings import UsageError

pytestmark = pytest.mark.dist


def is_group_usable(world):
    total = torch.tensor([1.0])
    dist.all_reduce(total)
    return total.item() == world.world_size


def succeed(world):
    with verdict(world, "work", limit_s=20):
        pass
    return is_group_usable(world)


def test_all_go_on_when_all_succeed():
    ended = on_ranks(3, succeed)

    assert [end.value for end in ended] == [True, True, True]


def refuse(is_refused, rank):
    if is_refused:
        raise LockedError(f"rank {rank} says no", hint="try this")


def fail_on(world, ranks):
    try:
        with verdict(world, "work", limit_s=20):
            refuse(world.rank in ranks, world.rank)
    except LockedError as error:
        return [str(error), error.hint, error.exit_code, is_group_usable(world)]
    return None


@pytest.mark.parametrize(("failing", "told"), [([0], 0), ([2], 2), ([1, 2], 1)])
def test_all_raise_the_error_of_the_lowest_rank_that_failed(failing, told):
    ended = on_ranks(3, fail_on, failing)

    expected = [f"rank {told} says no", "try this", 73, True]
    assert [end.value for end in ended] == [expected] * 3


def raise_before_the_barrier(world):
    """Load as the seed did: rank 0 finds damage, and raises before the barrier."""
    with verdict(world, "checkpoint.load", limit_s=20):
        if world.is_main:
            raise DamagedCheckpointError("the zip archive has no central directory")
    named_barrier(world, "after load", limit_s=20)


def test_damage_that_rank_0_finds_before_a_barrier_ends_all_ranks_alike():
    ended = on_ranks(3, raise_before_the_barrier)

    assert [(end.kind, end.error) for end in ended] == [
        ("DamagedCheckpointError", "the zip archive has no central directory")
    ] * 3


def fail_with_a_bug(world):
    with verdict(world, "work", limit_s=20):
        if world.rank == 1:
            raise ZeroDivisionError("of a user")


def test_an_error_of_any_other_kind_tells_its_rank_and_is_our_own_fault():
    ended = on_ranks(2, fail_with_a_bug)

    assert [(end.kind, end.error, end.exit_code) for end in ended] == [
        ("RankFailedError", "rank 1 failed: ZeroDivisionError: of a user", 70)
    ] * 2


def work_longer_than_the_control_timeout(world):
    def slow() -> str:
        time.sleep(3)
        return "done"

    result = from_main(world, "slow", slow, limit_s=20)
    return [result, is_group_usable(world)]


def test_slow_work_may_take_longer_than_the_time_out_of_verdicts():
    ended = on_ranks(2, work_longer_than_the_control_timeout, control_timeout_s=1)

    assert [end.value for end in ended] == [["done", True]] * 2


def never_arrive(world):
    if world.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    named_barrier(world, "before", limit_s=1000)


def test_a_killed_rank_is_missed_long_before_the_limit():
    ended = on_ranks(3, never_arrive)

    assert ended[1].is_killed
    assert ended[0].kind == ended[2].kind == "RankMissingError"
    assert ended[0].error == ended[2].error
    assert "`before`: rank 1 (process" in ended[0].error
    assert "is gone" in ended[0].error


def wait_until(is_so):
    while not is_so():
        time.sleep(0.01)


def arrive_too_late(world):
    if world.rank == 1:
        wait_until(lambda: world.store.check(["verdict/0/outcome"]))
    if world.rank == 0:
        # Its limit alone runs out, and not before rank 2 has come.
        wait_until(lambda: world.store.check(["verdict/0/2"]))
    try:
        named_barrier(world, "late", limit_s=60 if world.rank else 0.5)
    finally:
        # Nobody leaves before all have seen how it ends.
        world.store.add("seen", 1)
        wait_until(lambda: world.store.add("seen", 0) == world.world_size)


def test_who_comes_too_late_raises_what_the_others_raised():
    ended = on_ranks(3, arrive_too_late)

    assert [(end.kind, end.error) for end in ended] == [
        ("RankMissingError", "`late`: rank 1 did not arrive within 0.5 s")
    ] * 3


class Recorder:
    def __init__(self):
        self.seen = []

    def barrier(self, name, *, limit_s=None):
        self.seen.append((name, limit_s))
        return self

    def __enter__(self):
        self.seen.append("arrived")

    def __exit__(self, *_):
        self.seen.append("released")


def record_barriers(world):
    world.watch = Recorder()
    from_main(world, "save", lambda: "x", limit_s=7)
    return world.watch.seen


def test_every_rank_is_seen_to_arrive_and_to_be_released():
    ended = on_ranks(2, record_barriers)

    assert [end.value for end in ended] == [[("save", 7), "arrived", "released"]] * 2


def leave_a_reason(world):
    if world.rank == 1:
        publish_failure(world, ValueError("cannot go on"))
        publish_failure(world, ValueError("nor this"))
    named_barrier(world, "both", limit_s=20)
    return str(published_failure(world))


def test_the_first_reason_that_a_rank_leaves_behind_is_found_by_all():
    ended = on_ranks(2, leave_a_reason)

    assert [end.value for end in ended] == [
        "rank 1 failed: ValueError: cannot go on"
    ] * 2


def test_alone_a_verdict_raises_the_very_error():
    with pytest.raises(KeyError), verdict(alone(), "work", limit_s=1):
        raise KeyError("x")


def test_alone_work_is_done_and_barriers_are_nothing():
    world = alone()

    assert from_main(world, "work", lambda: "result", limit_s=1) == "result"
    named_barrier(world, "nothing", limit_s=1)
    barrier_safe()
    assert published_failure(world) is None


def use_barrier_safe(world):
    barrier_safe()
    return True


def test_barrier_safe_is_a_barrier_inside_a_group():
    assert [end.value for end in on_ranks(2, use_barrier_safe)] == [True, True]


def refuse_usage(world):
    with verdict(world, "work", limit_s=20):
        if world.rank == 1:
            raise UsageError("not like this")


def test_an_error_kind_that_the_store_does_not_know_keeps_its_exit_code():
    ended = on_ranks(2, refuse_usage)

    assert [(end.error, end.exit_code) for end in ended] == [("not like this", 64)] * 2
