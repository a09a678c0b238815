"""A thousand schedules of faults: every run ends, every round is what it says."""

from collections import Counter

import pytest
import torch

from tests.trainer.federated.simulation import check, simulate
from trainer.federated.aggregate import Update

SEEDS = range(1000)


@pytest.mark.parametrize("block", range(10))
def test_every_schedule_ends_with_rounds_that_equal_their_replay(block):
    for seed in SEEDS[block::10]:
        server, clients = simulate(seed)

        assert server.finish.reason == "completed", seed
        assert len(server.disk.rounds) == server.rules.num_rounds, seed
        check(server, clients)


def test_the_schedules_reach_what_they_are_for():
    """Faults that never bite would prove nothing."""
    seen = Counter()
    for seed in SEEDS[:100]:
        server, clients = simulate(seed)
        seen["restarted servers"] += server.life > 1
        seen["restarted clients"] += any(client.life > 1 for client in clients)
        seen["returns"] += any(c.num_sessions > c.life for c in clients)
        seen["resets"] += any(client.num_resets for client in clients)
        seen["deadlines"] += any(c.reason == "deadline" for c in server.closes)
        seen.update(refusal.value for refusal in server.refusals)

    assert min(seen.values()) >= 1
    assert {
        "restarted servers",
        "restarted clients",
        "returns",
        "resets",
        "deadlines",
        "duplicate",
        "late",
        "closed",
    } <= {name for name, count in seen.items() if count >= 3}


def test_the_check_notices_a_round_that_counted_something_else():
    server, clients = simulate(3)
    base, updates, model = server.disk.rounds[0]
    extra = Update(client="zz", tensors={"w": torch.ones(3)}, num_examples=1)
    server.disk.rounds[0] = (base, (*updates, extra), model)

    with pytest.raises(AssertionError, match="a replay gives other bits"):
        check(server, clients)


@pytest.mark.soak
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("block", range(20))
def test_every_schedule_ends_in_full(block):
    for seed in range(1000 + block, 21_000, 20):
        server, clients = simulate(seed)

        assert server.finish.reason == "completed", seed
        check(server, clients)
