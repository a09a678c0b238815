"""Joining a group, leaving it, and being alone."""

import os

import pytest
import torch
import torch.distributed as dist

from tests.ranks import on_ranks
from trainer.distributed.world import (
    choose_device,
    is_known_dead,
    join,
    joined,
    leave,
)


def describe(world):
    timeouts = world.control is not None and world.steps is not None
    return [
        *(world.rank, world.local_rank, world.world_size, world.local_world_size),
        *(world.num_nodes, world.is_main, world.is_group, timeouts),
        is_known_dead(world, 0) is None,
    ]


@pytest.mark.dist
def test_the_environment_of_torchrun_tells_every_rank_its_place():
    ended = on_ranks(2, describe)

    assert [end.value for end in ended] == [
        [0, 0, 2, 2, 1, True, True, True, True],
        [1, 1, 2, 2, 1, False, True, True, True],
    ]


@pytest.mark.dist
def test_a_group_of_one_is_a_group():
    [end] = on_ranks(1, describe)

    assert end.value == [0, 0, 1, 1, 1, True, True, True, True]


def test_without_torchrun_a_process_is_alone():
    assert "RANK" not in os.environ

    with joined(device="cpu") as world:
        assert (world.rank, world.world_size, world.is_group) == (0, 1, False)
        assert not dist.is_initialized()
        assert is_known_dead(world, 0) is None
    leave(join(device="cpu"))


def leave_twice(world):
    leave(world)
    leave(world)
    return dist.is_initialized()


@pytest.mark.dist
def test_after_leaving_there_is_no_group():
    assert [end.value for end in on_ranks(2, leave_twice)] == [False, False]


@pytest.mark.parametrize(
    ("wanted", "num_devices", "local_rank", "local_world_size", "chosen"),
    [
        ("cpu", 8, 1, 2, "cpu"),
        ("auto", 0, 1, 2, "cpu"),
        ("auto", 1, 1, 2, "cpu"),
        ("auto", 2, 1, 2, "cuda:1"),
        ("cuda", 1, 1, 2, "cuda:0"),
        ("cuda", 0, 0, 1, "cpu"),
    ],
)
def test_every_local_rank_gets_a_device_of_its_own_or_the_cpu(
    monkeypatch, wanted, num_devices, local_rank, local_world_size, chosen
):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: num_devices)

    found = choose_device(wanted, local_rank, local_world_size)

    assert str(found) == chosen
