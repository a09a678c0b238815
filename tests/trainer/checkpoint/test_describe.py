"""A saved optimizer state is only loaded where it fits."""

import msgspec
import pytest
import torch
from torch import nn

from tests.trainer.checkpoint.states import facts, make_state, payload
from trainer.checkpoint.describe import (
    OptimizerMismatchError,
    check_optimizer,
    describe_optimizer,
    num_tensor_bytes,
)


@pytest.fixture
def state():
    return make_state()


def check(state, *, manifest=None, saved=None, optimizer=None, model=None):
    whole = payload(state)
    check_optimizer(
        manifest or facts(state, whole),
        saved or whole["optimizer"],
        optimizer or state.optimizer,
        model or state.model,
    )


def test_a_state_that_fits_is_taken(state):
    check(state)


def test_what_an_optimizer_needs_is_described(state):
    schema = describe_optimizer(state.optimizer, state.model)

    assert schema.kind == "AdamW"
    assert schema.param_names == ("0.weight", "0.bias", "1.weight", "1.bias")
    assert schema.param_shapes[0] == (3, 4)
    assert schema.state_keys == ("exp_avg", "exp_avg_sq", "step")
    assert schema.step == 3


def test_another_kind_of_optimizer_is_refused(state):
    other = torch.optim.SGD(state.model.parameters(), lr=0.1)

    with pytest.raises(OptimizerMismatchError, match="saved by `AdamW`, to be loaded"):
        check(state, optimizer=other)


def test_reordered_parameters_are_refused_with_the_first_that_differs(state):
    parameters = list(state.model.parameters())
    other = torch.optim.AdamW([parameters[1], parameters[0], *parameters[2:]])

    with pytest.raises(
        OptimizerMismatchError, match=r"parameter 0 was `0.weight`, now it is `0.bias`"
    ):
        check(state, optimizer=other)


def test_other_groups_of_the_same_parameters_are_refused(state):
    parameters = list(state.model.parameters())
    groups = [{"params": parameters[:3]}, {"params": parameters[3:]}]
    other = torch.optim.AdamW(groups)

    with pytest.raises(
        OptimizerMismatchError,
        match=r"groups had \[4\] parameters, now they have \[3, 1",
    ):
        check(state, optimizer=other)


def test_a_missing_parameter_is_refused(state):
    other = torch.optim.AdamW(list(state.model.parameters())[:3])

    with pytest.raises(OptimizerMismatchError, match="with 4 parameters, now there"):
        check(state, optimizer=other)


def test_another_shape_is_refused(state):
    model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5))
    other = torch.optim.AdamW(model.parameters())

    with pytest.raises(
        OptimizerMismatchError, match=r"`0.weight` had shape \[3, 4\], now it has"
    ):
        check(state, optimizer=other, model=model)


def test_moments_of_the_wrong_shape_are_refused_which_torch_would_take(state):
    saved = payload(state)["optimizer"]
    saved["state"][0]["exp_avg"] = torch.zeros(7)
    torch.optim.AdamW(make_state().model.parameters()).load_state_dict(saved)

    with pytest.raises(
        OptimizerMismatchError, match=r"`exp_avg` of `0.weight` has shape \[7\]"
    ):
        check(state, saved=saved)


def test_state_of_shapes_that_only_its_optimizer_knows_is_taken(state):
    optimizer = torch.optim.Adafactor(state.model.parameters())
    state.model(torch.randn(5, 4)).square().sum().backward()
    optimizer.step()
    state.optimizer = optimizer

    assert payload(state)["optimizer"]["state"][0]["row_var"].shape != (3, 4)
    check(state)


def test_moments_of_another_type_are_refused(state):
    saved = payload(state)["optimizer"]
    saved["state"][1]["exp_avg_sq"] = saved["state"][1]["exp_avg_sq"].double()

    with pytest.raises(
        OptimizerMismatchError, match=r"`exp_avg_sq` of `0.bias` is torch.float64"
    ):
        check(state, saved=saved)


def test_a_step_counter_ahead_of_the_checkpoint_is_refused(state):
    saved = payload(state)["optimizer"]
    saved["state"][2]["step"] = torch.tensor(9.0)

    with pytest.raises(
        OptimizerMismatchError, match=r"the step counter of `1.weight` is 9"
    ):
        check(state, saved=saved)


def test_a_manifest_without_an_optimizer_is_refused(state):
    manifest = msgspec.structs.replace(facts(state, payload(state)), optimizer=None)

    with pytest.raises(OptimizerMismatchError, match="does not describe") as caught:
        check(state, manifest=manifest)
    assert "--allow-new-optimizer" in caught.value.hint


def test_shared_bytes_are_counted_once():
    weight = torch.zeros(100)

    assert num_tensor_bytes({"a": weight, "b": weight.view(10, 10)}) == 400
