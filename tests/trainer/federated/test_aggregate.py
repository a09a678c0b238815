"""The mean of the members, and what may stand in for it."""

import math
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.federated.aggregate import (
    ServerMomentum,
    Update,
    add_proximal_gradient,
    fedavg,
    first_nonfinite,
    pulls,
    weighted_mean,
)


def model(seed, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return {
        "w": torch.randn(4, 3, generator=generator).to(dtype),
        "b": torch.randn(3, generator=generator).to(dtype),
        "mean": torch.randn(3, generator=generator),
        "count": torch.tensor(seed),
    }


def update(client, seed, num_examples=10, dtype=torch.float32):
    return Update(client=client, tensors=model(seed, dtype), num_examples=num_examples)


def equal(a, b):
    return a.keys() == b.keys() and all(
        a[k].dtype == b[k].dtype and torch.equal(a[k], b[k]) for k in a
    )


NAMES = ("w", "b")


def test_members_weigh_as_much_as_they_have_examples():
    updates = [update("a", 1, 30), update("b", 2, 10)]

    result = fedavg(model(0), updates, NAMES).tensors

    expected = (model(1)["w"].double() * 30 + model(2)["w"].double() * 10) / 40
    torch.testing.assert_close(result["w"], expected.float(), rtol=0, atol=0)


def test_buffers_stay_as_they_are_unless_they_are_named():
    updates = [update("a", 1), update("b", 2)]

    local = fedavg(model(0), updates, NAMES).tensors
    shared = fedavg(model(0), updates, (*NAMES, "mean", "count")).tensors

    assert torch.equal(local["mean"], model(0)["mean"])
    assert torch.equal(shared["mean"], ((model(1)["mean"] + model(2)["mean"]) / 2))
    assert shared["count"] == 2
    assert shared["count"].dtype == torch.int64


@given(st.lists(st.integers(1, 10**6), min_size=2, max_size=6), st.randoms())
@settings(max_examples=40, deadline=None)
def test_the_order_of_arrival_changes_no_bit(weights, shuffler):
    updates = [update(f"c{i}", i, weight) for i, weight in enumerate(weights)]
    expected = fedavg(model(9), updates, NAMES)

    shuffler.shuffle(updates)
    found = fedavg(model(9), updates, NAMES)

    assert equal(found.tensors, expected.tensors)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_members_that_agree_are_not_changed_by_a_bit(dtype):
    updates = [update(client, 5, 7, dtype) for client in "abc"]

    result = fedavg(model(0, dtype), updates, NAMES).tensors

    assert torch.equal(result["w"], model(5, dtype)["w"])
    assert result["w"].dtype is dtype


def test_the_inputs_are_left_alone():
    current, updates = model(0), [update("a", 1), update("b", 2)]

    result = fedavg(current, updates, NAMES).tensors
    result["mean"].zero_()
    result["w"].zero_()

    assert equal(current, model(0))
    assert equal(dict(updates[0].tensors), model(1))


@pytest.mark.parametrize("updates", [[], [update("a", 1, 0)]])
def test_a_round_without_examples_has_no_mean(updates):
    with pytest.raises(ValueError, match="no update holds an example"):
        fedavg(model(0), updates, NAMES)


def test_server_momentum_goes_on_in_the_direction_of_the_round_before():
    rule = ServerMomentum(momentum=0.5, lr=1.0)
    one = torch.ones(2)
    first = fedavg(
        {"w": one},
        [Update(client="a", tensors={"w": one * 0.8}, num_examples=1)],
        ["w"],
        momentum=rule,
    )

    second = fedavg(
        first.tensors,
        [Update(client="a", tensors={"w": first.tensors["w"]}, num_examples=1)],
        ["w"],
        momentum=rule,
        velocity=first.velocity,
    )

    torch.testing.assert_close(first.tensors["w"], one * 0.8)
    torch.testing.assert_close(second.tensors["w"], one * 0.7)


def test_no_server_momentum_is_plain_averaging():
    updates = [update("a", 1), update("b", 2)]

    plain = fedavg(model(0), updates, NAMES).tensors
    trivial = fedavg(
        model(0), updates, NAMES, momentum=ServerMomentum(momentum=0.0)
    ).tensors

    torch.testing.assert_close(trivial["w"], plain["w"])


def test_the_server_moves_by_its_own_learning_rate():
    rule = ServerMomentum(momentum=0.0, lr=0.5)
    update_to_zero = Update(client="a", tensors={"w": torch.zeros(2)}, num_examples=1)

    result = fedavg({"w": torch.ones(2)}, [update_to_zero], ["w"], momentum=rule)

    assert torch.equal(result.tensors["w"], torch.full((2,), 0.5))


def test_the_proximal_gradient_is_that_of_the_proximal_term():
    weight = torch.nn.Parameter(torch.tensor([1.0, -2.0, 3.0]))
    reference = torch.tensor([0.5, 0.0, 4.0])
    (0.3 / 2 * (weight - reference).square().sum()).backward()
    expected = weight.grad.clone()

    weight.grad = torch.zeros(3)
    add_proximal_gradient([(weight, reference)], 0.3)

    torch.testing.assert_close(weight.grad, expected)


def test_a_parameter_without_a_gradient_is_not_pulled():
    weight = torch.nn.Parameter(torch.ones(2))

    add_proximal_gradient([(weight, torch.zeros(2))], 1.0)

    assert weight.grad is None


@given(st.integers(2, 5), st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_the_cosine_is_that_to_the_weighted_mean_of_the_others(num_members, seed):
    chance = random.Random(seed)
    current = model(seed)
    updates = [
        update(f"c{i}", seed + i + 1, chance.randint(1, 50)) for i in range(num_members)
    ]

    found = pulls(current, updates, NAMES)

    def flat(tensors):
        return torch.cat([(tensors[n] - current[n]).double().flatten() for n in NAMES])

    for one in updates:
        others = [u for u in updates if u is not one]
        mean = sum(flat(u.tensors) * u.num_examples for u in others)
        own = flat(one.tensors)
        cosine = float(torch.dot(own, mean) / (own.norm() * mean.norm()))
        assert math.isclose(found[one.client].cosine, cosine, abs_tol=1e-6)
        assert math.isclose(found[one.client].norm, float(own.norm()), rel_tol=1e-6)


def test_who_is_alone_or_stood_still_has_no_direction():
    current = model(0)
    still = Update(client="s", tensors=model(0), num_examples=1)

    alone = pulls(current, [update("a", 1)], NAMES)
    beside_a_still_one = pulls(current, [update("a", 1), still], NAMES)

    assert alone["a"].cosine is None
    assert alone["a"].norm > 0
    assert beside_a_still_one["a"].cosine is None
    assert beside_a_still_one["s"] == (0.0, None)


def test_a_pull_that_is_not_finite_is_none():
    broken = update("a", 1)
    broken.tensors["w"][0, 0] = math.nan

    found = pulls(model(0), [broken, update("b", 2)], NAMES)

    assert found["a"] == (None, None)
    assert found["b"].cosine is None


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_tensor_with_a_value_that_is_not_finite_is_named(value):
    tensors = model(1)
    tensors["b"][2] = value

    assert first_nonfinite(tensors) == "b"


def test_a_sum_that_overflows_is_no_infinity():
    assert first_nonfinite({"w": torch.full((4,), 3e38)}) is None


def test_a_counter_takes_the_greatest():
    counts = [torch.tensor(5), torch.tensor(9), torch.tensor(7)]

    assert weighted_mean(counts, [100, 1, 100]) == 9


def test_the_greatest_weights_that_a_message_holds_can_be_added_up():
    heavy = [update(client, seed, 2**62) for seed, client in enumerate("abcd")]
    light = [update(client, seed, 1) for seed, client in enumerate("abcd")]

    result = fedavg(model(9), heavy, NAMES).tensors

    assert equal(result, fedavg(model(9), light, NAMES).tensors)
