"""Both optimizers do what torch's do, step for step, and refuse what torch refuses."""

import copy

import pytest
import torch

from trainer.tutorial.adamw import AdamWFromScratch
from trainer.tutorial.sgd import SGDFromScratch

STEPS = 1000
LIMIT = 1e-6

PAIRS = {
    "AdamW": (AdamWFromScratch, torch.optim.AdamW, {"lr": 3e-3}),
    "AdamW without decay": (
        AdamWFromScratch,
        torch.optim.AdamW,
        {"lr": 3e-3, "weight_decay": 0.0, "betas": (0.8, 0.95), "eps": 1e-6},
    ),
    "SGD": (SGDFromScratch, torch.optim.SGD, {"lr": 0.05}),
    "SGD with momentum": (
        SGDFromScratch,
        torch.optim.SGD,
        {"lr": 0.02, "momentum": 0.9, "weight_decay": 1e-3},
    ),
    "SGD with Nesterov": (
        SGDFromScratch,
        torch.optim.SGD,
        {"lr": 0.02, "momentum": 0.9, "nesterov": True},
    ),
}


def net(seed=0):
    torch.manual_seed(seed)
    return torch.nn.Sequential(
        torch.nn.Linear(6, 16), torch.nn.Tanh(), torch.nn.Linear(16, 3)
    )


def follow(model, optimizer, steps, begin=0):
    """Train on examples that depend on the step alone."""
    for step in range(begin, begin + steps):
        generator = torch.Generator().manual_seed(step)
        inputs = torch.randn(16, 6, generator=generator)
        optimizer.zero_grad()
        (model(inputs) - inputs[:, :3].sin()).square().mean().backward()
        optimizer.step()


def difference(a, b):
    pairs = zip(a.parameters(), b.parameters(), strict=True)
    return max(float((x - y).detach().abs().max()) for x, y in pairs)


@pytest.mark.parametrize("name", PAIRS)
def test_a_thousand_steps_equal_torchs(name):
    ours_type, torchs_type, settings = PAIRS[name]
    ours, torchs = net(), net()

    follow(ours, ours_type(ours.parameters(), **settings), STEPS)
    follow(torchs, torchs_type(torchs.parameters(), **settings), STEPS)

    assert difference(ours, torchs) <= LIMIT
    assert difference(ours, net()) > 0.01


@pytest.mark.parametrize("name", PAIRS)
def test_a_saved_state_goes_on_where_it_was(name):
    kind, _, settings = PAIRS[name]
    whole, half = net(), net()
    optimizer = kind(whole.parameters(), **settings)
    follow(whole, optimizer, 20)
    first = kind(half.parameters(), **settings)
    follow(half, first, 10)

    saved = copy.deepcopy(first.state_dict())
    resumed = kind(half.parameters())
    resumed.load_state_dict(saved)
    follow(half, resumed, 10, begin=10)

    assert difference(whole, half) == 0.0


def test_groups_have_settings_of_their_own():
    model, twin = net(), net()

    def groups(m):
        return [
            {"params": [m[0].weight, m[2].weight], "weight_decay": 0.5},
            {"params": [m[0].bias, m[2].bias], "weight_decay": 0.0, "lr": 0.1},
        ]

    follow(model, AdamWFromScratch(groups(model), lr=1e-2), 50)
    follow(twin, torch.optim.AdamW(groups(twin), lr=1e-2), 50)

    assert difference(model, twin) <= LIMIT


def test_a_parameter_without_a_gradient_stays():
    model = net()
    before = model[0].weight.detach().clone()
    model[2](torch.ones(1, 16)).sum().backward()

    AdamWFromScratch(model.parameters(), weight_decay=0.5).step()

    assert torch.equal(model[0].weight, before)
    assert model[2].bias.grad is not None


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda p: SGDFromScratch([]), "no parameter"),
        (lambda p: SGDFromScratch([*p, p[0]]), "in two groups"),
        (lambda p: SGDFromScratch(p, lr=-1), "outside its range"),
        (lambda p: SGDFromScratch(p, momentum=1.0), "outside its range"),
        (lambda p: SGDFromScratch(p, nesterov=True), "needs momentum"),
        (lambda p: AdamWFromScratch(p, betas=(0.9, 1.0)), "outside their ranges"),
        (lambda p: AdamWFromScratch(p, lr=-1e-3), "outside their ranges"),
    ],
)
def test_what_makes_no_sense_is_refused(make, told):
    with pytest.raises(ValueError, match=told):
        make(list(net().parameters()))


def test_state_of_another_model_is_refused_and_nothing_changes():
    model = net()
    optimizer = AdamWFromScratch(model.parameters())
    follow(model, optimizer, 1)
    before = copy.deepcopy(optimizer.state_dict())
    other = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.Linear(5, 3))
    foreign = AdamWFromScratch(other.parameters())
    other(torch.ones(1, 6)).sum().backward()
    foreign.step()

    with pytest.raises(ValueError, match="another shape"):
        optimizer.load_state_dict(foreign.state_dict())
    with pytest.raises(ValueError, match="state of 1 parameters for 4"):
        optimizer.load_state_dict({"groups": [{}], "state": [{}]})

    now = optimizer.state_dict()
    assert now["groups"] == before["groups"]
    for old, new in zip(before["state"], now["state"], strict=True):
        assert torch.equal(old["m"], new["m"])
