"""Optimizer state is cleared whole, hyperparameters stay, and both are told."""

import copy

import pytest
import torch

from trainer.federated.optimizer_state import FreshState

OPTIMIZERS = {
    "SGD": (lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9), {"momentum_buffer"}),
    "Adam": (lambda p: torch.optim.Adam(p, lr=0.1), {"exp_avg", "exp_avg_sq"}),
    "AdamW": (
        lambda p: torch.optim.AdamW(p, lr=0.1, amsgrad=True),
        {"exp_avg", "exp_avg_sq", "max_exp_avg_sq"},
    ),
    "RMSprop": (
        lambda p: torch.optim.RMSprop(p, lr=0.1, momentum=0.5),
        {"square_avg", "momentum_buffer"},
    ),
    "Adagrad": (
        lambda p: torch.optim.Adagrad(p, lr=0.1, initial_accumulator_value=0.25),
        {"sum"},
    ),
}


def train(model, optimizer, num_steps=3):
    generator = torch.Generator().manual_seed(3)
    for _ in range(num_steps):
        optimizer.zero_grad()
        inputs = torch.randn(8, 4, generator=generator)
        model(inputs).square().mean().backward()
        optimizer.step()


def make(kind):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 2))
    optimizer = OPTIMIZERS[kind][0](model.parameters())
    return model, optimizer, FreshState(optimizer, model.named_parameters())


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_a_reset_optimizer_steps_like_a_new_one(kind):
    model, optimizer, fresh = make(kind)
    train(model, optimizer)
    twin = copy.deepcopy(model)
    new = OPTIMIZERS[kind][0](twin.parameters())

    fresh.reset()
    train(model, optimizer)
    train(twin, new)

    for mine, expected in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(mine, expected)


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_hyperparameters_stay_and_the_norms_before_and_after_are_told(kind):
    model, optimizer, fresh = make(kind)
    for group in optimizer.param_groups:
        group["lr"] = 0.0123
    train(model, optimizer)
    hyper = [
        {k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups
    ]

    change = fresh.reset()

    assert change.optimizer == kind
    assert change.before.keys() == OPTIMIZERS[kind][1] == change.after.keys()
    assert all(norm > 0 for norm in change.before.values())
    if kind == "Adagrad":
        assert change.after["sum"] == pytest.approx(0.25 * 30**0.5)
    else:
        assert set(change.after.values()) == {0.0}
    assert hyper == [
        {k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups
    ]


def test_the_largest_parameters_are_named_on_demand():
    model, optimizer, fresh = make("SGD")
    train(model, optimizer)
    norms = {
        f"momentum_buffer/{name}": float(optimizer.state[p]["momentum_buffer"].norm())
        for name, p in model.named_parameters()
    }
    largest = sorted(norms, key=norms.get)[-2:]

    change = fresh.reset(top=2)

    assert change.before.keys() == {"momentum_buffer", *largest}
    assert change.after == dict.fromkeys(change.before, 0.0)
    for label in largest:
        assert change.before[label] == pytest.approx(norms[label])


def test_decay_shrinks_every_kind_and_leaves_the_step_counter():
    model, optimizer, fresh = make("Adam")
    train(model, optimizer)

    change = fresh.decay(0.25, top=10)

    for label, before in change.before.items():
        assert change.after[label] == pytest.approx(before * 0.25)
    assert len(change.before) == 2 + 2 * 4
    assert {int(values["step"]) for values in optimizer.state.values()} == {3}


def test_state_that_is_not_finite_is_none_and_is_cleared_too():
    model, optimizer, fresh = make("SGD")
    train(model, optimizer)
    next(iter(optimizer.state.values()))["momentum_buffer"].fill_(float("inf"))

    change = fresh.reset(top=9)

    assert change.before["momentum_buffer"] is None
    assert change.after["momentum_buffer"] == 0.0
    assert not optimizer.state


def test_an_optimizer_that_never_stepped_has_nothing_to_lose():
    _, _, fresh = make("AdamW")

    change = fresh.reset()

    assert change.before == {}
    assert change.after == {}
