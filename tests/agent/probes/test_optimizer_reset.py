import copy

import pytest
import torch

from agent.rundir.events import OptimizerReset, decode_lines
from agent.rundir.layout import RunDir
from agent.session import Agent

OPTIMIZERS = {
    "SGD": (lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9), {"momentum_buffer"}),
    "AdamW": (lambda p: torch.optim.AdamW(p, lr=0.1), {"exp_avg", "exp_avg_sq"}),
    "RMSprop": (
        lambda p: torch.optim.RMSprop(p, lr=0.1, momentum=0.9),
        {"square_avg", "momentum_buffer"},
    ),
    "Adagrad": (lambda p: torch.optim.Adagrad(p, lr=0.1), {"sum"}),
}


def trained(make):
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 3)
    optimizer = make(model.parameters())
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.randn(5, 4)).square().sum().backward()
        optimizer.step()
    return model, optimizer


def resets(folder):
    data = RunDir(folder).telemetry_file(1, "rank-00000").read_bytes()
    return [e for e in decode_lines(data) if isinstance(e, OptimizerReset)]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_reset_forgets_the_state_keeps_the_settings_and_tells_both_norms(
    tmp_path, name
):
    make, keys = OPTIMIZERS[name]
    _, optimizer = trained(make)
    settings = [
        {k: v for k, v in group.items() if k != "params"}
        for group in optimizer.param_groups
    ]

    with Agent.attach(tmp_path) as agent:
        agent.reset_optimizer(
            optimizer, reason="missed 2 rounds", rounds_missed=2, seed=7
        )

    (event,) = resets(tmp_path)
    assert [
        {k: v for k, v in group.items() if k != "params"}
        for group in optimizer.param_groups
    ] == settings
    assert event.optimizer == name
    assert event.before.keys() == keys
    assert all(norm > 0 for norm in event.before.values())
    assert set(event.after.values()) <= {0.0}
    assert (event.reason, event.rounds_missed, event.seed) == ("missed 2 rounds", 2, 7)


EVERY_KIND = [
    found
    for found in vars(torch.optim).values()
    if isinstance(found, type)
    and issubclass(found, torch.optim.Optimizer)
    and found is not torch.optim.Optimizer
]


def make_any(kind, model):
    more = {"initial_accumulator_value": 0.25} if kind is torch.optim.Adagrad else {}
    return kind(model.parameters(), lr=0.1, **more)


def step_any(model, optimizer):
    def loss_again():
        optimizer.zero_grad()
        loss = model(torch.tensor([0, 1, 1])).square().sum()
        loss.backward()
        return loss

    for _ in range(3):
        optimizer.step(loss_again)


@pytest.mark.parametrize("kind", EVERY_KIND, ids=lambda kind: kind.__name__)
def test_after_a_reset_any_optimizer_steps_like_a_new_one(tmp_path, kind):
    model = torch.nn.Embedding(2, 3, sparse=kind is torch.optim.SparseAdam)
    optimizer = make_any(kind, model)
    step_any(model, optimizer)
    twin = copy.deepcopy(model)

    with Agent.attach(tmp_path) as agent:
        agent.reset_optimizer(optimizer, reason="test")
    step_any(model, optimizer)
    step_any(twin, make_any(kind, twin))

    assert torch.equal(model.weight, twin.weight)
    assert resets(tmp_path)[0].optimizer == kind.__name__


def test_a_reload_tells_the_norms_of_both_states(tmp_path):
    _, optimizer = trained(OPTIMIZERS["AdamW"][0])
    other = trained(OPTIMIZERS["AdamW"][0])[1]
    other.state_dict()["state"][0]["exp_avg"].mul_(100)

    with (
        Agent.attach(tmp_path) as agent,
        agent.changing_optimizer(optimizer, reason="rolled back"),
    ):
        optimizer.load_state_dict(other.state_dict())

    (event,) = resets(tmp_path)
    assert event.after["exp_avg"] > 10 * event.before["exp_avg"]
    assert event.after["exp_avg_sq"] == pytest.approx(event.before["exp_avg_sq"])


def test_the_largest_tensors_are_told_by_name_where_that_is_asked_for(tmp_path):
    model, optimizer = trained(OPTIMIZERS["AdamW"][0])
    state = optimizer.state[model.weight]
    state["exp_avg"].fill_(2.0)
    state["exp_avg_sq"].fill_(0.5)

    with Agent.attach(tmp_path) as agent:
        agent.watch_optimizer(optimizer, model.named_parameters())
        with agent.changing_optimizer(optimizer, reason="halved", top=2):
            state["exp_avg"].mul_(0.5)
        agent.reset_optimizer(optimizer, reason="test", top=1)

    halved, cleared = resets(tmp_path)
    size = model.weight.numel() ** 0.5
    assert halved.before.keys() == {
        *("exp_avg", "exp_avg_sq"),
        *("exp_avg/weight", "exp_avg_sq/weight"),
    }
    assert halved.before["exp_avg/weight"] == pytest.approx(2 * size)
    assert halved.after["exp_avg/weight"] == pytest.approx(size)
    assert halved.after["exp_avg_sq/weight"] == pytest.approx(size / 2)
    assert len(cleared.before) == 3
    assert cleared.after == {"exp_avg/weight": 0.0}


def test_without_an_optimizer_nothing_happens(tmp_path):
    with Agent.attach(tmp_path) as agent:
        agent.reset_optimizer(None, reason="none")

    assert resets(tmp_path) == []


def test_a_state_that_cannot_be_measured_is_cleared_all_the_same(tmp_path):
    model, optimizer = trained(OPTIMIZERS["SGD"][0])
    optimizer.state[model.weight]["momentum_buffer"] = torch.ones(2, device="meta")

    with Agent.attach(tmp_path) as agent:
        agent.reset_optimizer(optimizer, reason="test")

    assert not optimizer.state
    assert resets(tmp_path)[0].before == {}


def test_switched_off_it_still_resets(tmp_path, monkeypatch):
    monkeypatch.setenv("OPSDASH_AGENT", "off")
    _, optimizer = trained(OPTIMIZERS["SGD"][0])

    with Agent.attach(tmp_path / "run") as agent:
        agent.reset_optimizer(optimizer, reason="test")

    assert not optimizer.state
