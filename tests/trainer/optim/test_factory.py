"""Optimizers by name, and which parameters decay."""

import pytest
import torch
from torch import nn

from trainer.optim.factory import (
    configure_optimizer,
    create_optimizer,
    get_parameter_groups,
)


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.one = nn.Linear(3, 3)
        self.norm = nn.LayerNorm(3)
        self.batch = nn.BatchNorm1d(3)
        self.other = nn.Linear(3, 3)
        self.other.weight = self.one.weight
        self.frozen = nn.Linear(3, 3).requires_grad_(requires_grad=False)


def names_of(model, group):
    ids = {id(p) for p in group["params"]}
    return {name for name, p in model.named_parameters() if id(p) in ids}


def test_biases_and_norms_do_not_decay_and_weights_do():
    model = Tied()

    decayed, exempt = get_parameter_groups(model, 0.1)

    assert names_of(model, decayed) == {"one.weight"}
    assert names_of(model, exempt) == {
        *("one.bias", "other.bias"),
        *("norm.weight", "norm.bias", "batch.weight", "batch.bias"),
    }
    assert (decayed["weight_decay"], exempt["weight_decay"]) == (0.1, 0.0)


def test_a_shared_parameter_is_optimized_once_and_a_frozen_one_never():
    model = Tied()

    groups = get_parameter_groups(model, 0.1)

    all_ids = [id(p) for group in groups for p in group["params"]]
    assert len(all_ids) == len(set(all_ids)) == 7
    assert id(model.frozen.weight) not in all_ids


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("adamw", torch.optim.AdamW),
        ("Adam", torch.optim.Adam),
        ("sgd", torch.optim.SGD),
        ("rmsprop", torch.optim.RMSprop),
        ("adagrad", torch.optim.Adagrad),
    ],
)
def test_every_kind_takes_a_step_that_changes_the_weights(name, kind):
    model = nn.Linear(3, 1)
    before = model.weight.detach().clone()
    optimizer = configure_optimizer(
        model=model, optimizer_type=name, lr=0.1, weight_decay=0.0, momentum=0.5
    )

    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()

    assert type(optimizer) is kind
    assert not torch.equal(model.weight, before)
    if name in ("sgd", "rmsprop"):
        assert optimizer.param_groups[0]["momentum"] == 0.5


def test_an_unknown_optimizer_is_refused_with_those_that_there_are():
    with pytest.raises(ValueError, match="'lion', known are adamw, adam, sgd"):
        create_optimizer([{"params": [nn.Parameter(torch.ones(1))]}], "lion")


def test_a_group_without_parameters_is_left_out():
    groups = get_parameter_groups(nn.Linear(2, 2, bias=False), 0.1)

    assert len(groups) == 1
