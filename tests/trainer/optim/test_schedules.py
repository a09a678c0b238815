"""Learning rates over a run, against their definitions and torch's own."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trainer.optim.schedules import Schedule, ScheduledRates, TorchRates

KINDS = ["cosine", "linear", "constant", "one_cycle", "wsd"]


@given(
    st.sampled_from(KINDS),
    st.integers(1, 200),
    st.integers(0, 50),
    st.floats(0, 1),
    st.integers(0, 400),
)
def test_every_factor_lies_between_nothing_and_all(kind, length, warmup, least, step):
    factor = Schedule(kind, length, warmup, least).factor(step)

    assert 0.0 <= factor <= 1.0 + 1e-12
    if step >= warmup:
        assert factor >= least - 1e-12


@pytest.mark.parametrize("kind", KINDS)
def test_warm_up_rises_evenly_to_its_end(kind):
    schedule = Schedule(kind, 100, 10)

    assert [schedule.factor(step) for step in range(10)] == pytest.approx(
        [(step + 1) / 10 for step in range(10)]
    )


def test_cosine_is_torch_s_own():
    parameter = torch.nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 50, eta_min=0.1)
    ours = Schedule("cosine", 50, 0, 0.1)

    for step in range(50):
        assert ours.factor(step) == pytest.approx(theirs.get_last_lr()[0], abs=1e-9)
        optimizer.step()
        theirs.step()


@pytest.mark.parametrize(
    ("kind", "done", "factor"),
    [
        ("linear", 0.25, 0.75),
        ("constant", 0.9, 1.0),
        ("wsd", 0.5, 1.0),
        ("wsd", 0.9, 0.5),
        ("one_cycle", 0.3, 1.0),
        ("one_cycle", 0.0, 1 / 25),
        ("cosine", 0.5, 0.5),
    ],
)
def test_points_on_the_curves(kind, done, factor):
    schedule = Schedule(kind, 1000, 0, 0.0, decay_frac=0.2)

    assert schedule.factor(int(done * 1000)) == pytest.approx(factor, abs=1e-6)


@pytest.mark.parametrize("kind", ["cosine", "linear", "one_cycle", "wsd"])
def test_at_its_end_and_later_the_rate_is_the_lowest(kind):
    schedule = Schedule(kind, 100, 10, 0.1)

    assert schedule.factor(100) == pytest.approx(0.1)
    assert schedule.factor(1000) == pytest.approx(0.1)


def test_an_unknown_schedule_is_refused():
    with pytest.raises(ValueError, match="'steps'"):
        Schedule("steps", 10).factor(0)


def two_groups():
    one, other = (torch.nn.Parameter(torch.ones(1)) for _ in range(2))
    groups = [{"params": [one], "lr": 1.0}, {"params": [other], "lr": 0.1}]
    return torch.optim.SGD(groups, lr=1.0)


def test_each_group_keeps_its_own_highest_rate():
    optimizer = two_groups()
    rates = ScheduledRates(Schedule("linear", 10), optimizer)

    rates.advance(5)

    assert [g["lr"] for g in optimizer.param_groups] == pytest.approx([0.5, 0.05])


def test_a_saved_schedule_goes_on_in_another_optimizer():
    saved = ScheduledRates(Schedule("linear", 10), two_groups())
    saved.advance(7)
    optimizer = two_groups()
    optimizer.param_groups[0]["lr"] = 123.0
    resumed = ScheduledRates(Schedule("linear", 10), optimizer)

    resumed.load_state_dict(saved.state_dict())

    assert [g["lr"] for g in optimizer.param_groups] == pytest.approx([0.3, 0.03])
    assert resumed.step == 7


def test_a_schedule_of_another_number_of_groups_is_refused():
    saved = ScheduledRates(Schedule("linear", 10), two_groups()).state_dict()
    parameter = torch.nn.Parameter(torch.ones(1))
    rates = ScheduledRates(Schedule("linear", 10), torch.optim.SGD([parameter], lr=1.0))

    with pytest.raises(ValueError, match="2 groups, the optimizer has 1"):
        rates.load_state_dict(saved)


def test_a_scheduler_of_torch_s_moves_once_per_step():
    optimizer = two_groups()
    rates = TorchRates(torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5))
    optimizer.step()

    rates.advance(1)
    rates.settle(1)

    assert math.isclose(optimizer.param_groups[0]["lr"], 0.5)
    other = TorchRates(torch.optim.lr_scheduler.ExponentialLR(two_groups(), 0.5))
    other.load_state_dict(rates.state_dict())
    assert other.scheduler.last_epoch == 1
