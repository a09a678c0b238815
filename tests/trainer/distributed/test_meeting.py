"""The ranks of a start find each other, and not those of a start before."""

import threading

import pytest
import torch.distributed as dist

from tests.ranks import on_ranks
from trainer.distributed.meeting import NobodyMetError, meet


@pytest.fixture
def store():
    return dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)


def meet_in_threads(store, world_size, order):
    """Let ranks come in an order, and return what each finds under one key."""
    found = {}

    def come(rank):
        place = meet(store.clone(), rank, world_size, timeout_s=30)
        place.set(f"from-{rank}", str(rank))
        place.wait([f"from-{other}" for other in range(world_size)])
        found[rank] = place.add("count", 1)

    threads = [threading.Thread(target=come, args=(rank,)) for rank in order]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0)])
def test_ranks_meet_in_whatever_order_they_come(store, order):
    assert sorted(meet_in_threads(store, 3, order).values()) == [1, 2, 3]


def test_a_later_start_sees_nothing_of_an_earlier_one(store):
    meet_in_threads(store, 3, (0, 1, 2))

    assert sorted(meet_in_threads(store, 3, (1, 2, 0)).values()) == [1, 2, 3]


def test_a_rank_that_stays_away_is_named(store):
    with pytest.raises(NobodyMetError, match="rank 1 did not come"):
        meet(store, 0, 2, timeout_s=0.1)
    with pytest.raises(NobodyMetError, match="rank 0 did not come"):
        meet(store, 1, 2, timeout_s=0.1)


def do_nothing(world):
    return world.num_verdicts


@pytest.mark.dist
def test_alone_in_a_group_there_is_nobody_to_wait_for():
    assert [end.value for end in on_ranks(1, do_nothing)] == [0]
