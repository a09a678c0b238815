"""Where a rank waits, as its own agent sees it, on a clock that stands still."""

import pytest

from agent.emitter import Emitter
from agent.probes.activity import Activity
from agent.probes.barrier import BarrierProbe
from agent.probes.collectives import Collective
from agent.probes.waiting import OwnWaits

SECOND = 10**9


class Rank:
    """A rank with a limit of 60 s, looked at once a second, four before a limit."""

    def __init__(self, clock):
        self.clock = clock
        self.activity = Activity()
        self.barriers = BarrierProbe(Emitter(None, node="rank-0", rank=0))
        self.num_samples = 0
        self.collective = Collective("0 default_pg", 7, "gloo:all_reduce")
        self.waits = OwnWaits(
            self.activity,
            self.barriers,
            self.sample,
            limit_s=60,
            lead_ns=4 * SECOND,
        )

    def sample(self):
        self.num_samples += 1
        return self.collective

    def look(self, times=1):
        """Look once a second; return what the last look found overdue."""
        found = []
        for _ in range(times):
            self.clock.now += SECOND
            found = self.waits.look()
        return [wait.name for wait in found if wait.is_overdue]


@pytest.fixture
def rank(monkeypatch):
    class Clock:
        now = 1_000 * SECOND

    monkeypatch.setattr("time.monotonic_ns", lambda: Clock.now)
    return Rank(Clock)


def test_a_wait_without_a_limit_of_its_own_ends_with_the_one_around_it(rank):
    with rank.barriers.barrier("save", limit_ns=20 * SECOND):
        rank.look(10)
        with rank.barriers.wait("verdict"):
            assert rank.look(9) == []
            assert rank.look()[:2] == ["save", "verdict"]


def test_a_wait_without_a_limit_lasts_as_long_as_what_it_surrounds(rank):
    with (
        rank.barriers.wait("epoch"),
        rank.barriers.barrier("save", limit_ns=100 * SECOND),
    ):
        assert rank.look(99) == []
        assert rank.look()[:2] == ["epoch", "save"]


def test_each_wait_inside_one_that_is_overdue_is_given_a_while(rank):
    with rank.barriers.wait("epoch", limit_ns=20 * SECOND):
        rank.look(30)
        with rank.barriers.wait("step"):
            assert "step" not in rank.look(3)
            assert "step" in rank.look()


def test_a_collective_inside_is_looked_for_before_the_limit_and_told_after_it(rank):
    inside = "gloo:all_reduce 7 of group 0 default_pg"
    with rank.barriers.barrier("save", limit_ns=20 * SECOND):
        assert rank.look(15) == []
        assert rank.num_samples == 0
        assert rank.look(4) == []
        assert rank.num_samples > 0
        assert rank.look() == ["save", inside]


def test_another_collective_inside_is_another_wait(rank):
    with rank.barriers.barrier("save", limit_ns=20 * SECOND):
        rank.look(30)
        rank.collective = rank.collective._replace(id=8)
        num_samples = rank.num_samples
        while rank.num_samples == num_samples:
            found = rank.look()

        assert found == ["save"]
        assert rank.look(4)[1:] == ["gloo:all_reduce 8 of group 0 default_pg"]


def test_when_a_wait_is_over_what_was_inside_is_over_too(rank):
    with rank.barriers.barrier("save", limit_ns=20 * SECOND):
        with rank.barriers.wait("verdict"):
            assert len(rank.look(60)) == 3
        num_samples = rank.num_samples

        assert rank.look(4) == ["save"]
        assert rank.num_samples > num_samples
        assert len(rank.look()) == 2  # it is still the last one, and nothing moves


def test_a_main_thread_that_goes_from_one_collective_to_the_next_is_no_hang(rank):
    rank.activity.enter("training", 20 * SECOND)
    for number in range(100):
        rank.collective = rank.collective._replace(id=number)
        assert rank.look() == []

    assert len(rank.look(2)) == 1


@pytest.mark.parametrize("is_wrapped", [True, False])
def test_a_hang_of_an_hour_costs_few_samples(rank, is_wrapped):
    rank.activity.enter("training", 20 * SECOND)
    if is_wrapped:
        with rank.barriers.barrier("save", limit_ns=20 * SECOND):
            assert len(rank.look(3_600)) == 2
    else:
        assert len(rank.look(3_600)) == 1

    assert 10 < rank.num_samples < 60
    rank.activity.progress += 1
    rank.look(1)
    num_samples = rank.num_samples
    assert len(rank.look(30)) == 1  # the next one is named as soon
    assert rank.num_samples > num_samples
