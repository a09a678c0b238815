"""A user's DataLoader read by position."""

import pytest
import torch
from torch.utils.data import (
    DataLoader,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from trainer.data.loaders import planned
from trainer.distributed.world import World

DATA = TensorDataset(torch.arange(23))


def read(batches, epoch, offset=0):
    plans, loaded = batches.epoch(epoch, offset)
    return [next(loaded)[0].tolist() for plan in plans for _ in plan.micro_batches]


def test_the_rest_of_an_epoch_is_read_without_reading_what_lies_before():
    batches = planned(DataLoader(DATA, batch_size=4, shuffle=True), World(), seed=3)

    assert read(batches, 1, offset=8) == read(batches, 1)[2:]


def test_reading_draws_nothing_from_the_global_generator():
    batches = planned(DataLoader(DATA, batch_size=4, shuffle=True), World())
    before = torch.get_rng_state()

    read(batches, 0)
    batches.first_batch()

    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.slow
def test_worker_processes_read_the_same():
    alone = planned(DataLoader(DATA, batch_size=4, shuffle=True), World())
    helped = planned(
        DataLoader(
            DATA,
            batch_size=4,
            shuffle=True,
            num_workers=1,
            multiprocessing_context="forkserver",
        ),
        World(),
    )

    assert read(helped, 0) == read(alone, 0)


def distributed(*, shuffle):
    sampler = DistributedSampler(DATA, num_replicas=2, rank=0, shuffle=shuffle)
    return DataLoader(DATA, batch_size=4, sampler=sampler)


@pytest.mark.parametrize(
    ("make", "is_shuffled"),
    [
        (lambda: DataLoader(DATA, batch_size=4), False),
        (lambda: DataLoader(DATA, batch_size=4, shuffle=True), True),
        (lambda: distributed(shuffle=False), False),
        (lambda: distributed(shuffle=True), True),
    ],
)
def test_the_order_is_shuffled_where_the_loader_s_own_is(make, is_shuffled):
    assert planned(make(), World()).plan.shuffle is is_shuffled


class Stream(IterableDataset):
    def __iter__(self):
        return iter(range(3))


def test_a_stream_without_positions_is_refused():
    with pytest.raises(TypeError, match="no positions"):
        planned(DataLoader(Stream()), World())


@pytest.mark.parametrize(
    "sampler",
    [
        SubsetRandomSampler([1, 2, 3]),
        WeightedRandomSampler([1.0] * 23, 23),
        RandomSampler(DATA, replacement=True),
        RandomSampler(DATA, num_samples=5),
    ],
)
def test_a_sampler_that_picks_is_refused_as_it_would_not_be_used(sampler):
    loader = DataLoader(DATA, batch_size=4, sampler=sampler)

    with pytest.raises(TypeError, match="Sampler picks samples, and would not be used"):
        planned(loader, World())


def test_a_loader_that_makes_its_own_batches_is_refused():
    loader = DataLoader(DATA, batch_sampler=[[0, 1], [2]])

    with pytest.raises(TypeError, match="batch_size"):
        planned(loader, World())
