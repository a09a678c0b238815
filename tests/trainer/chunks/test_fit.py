import pytest
import torch
from torch import nn

from trainer.chunks.fit import CannotFitError, load_into, match_names


def tensors(**shapes):
    return {name.replace("__", "."): torch.randn(*s) for name, s in shapes.items()}


def test_equal_names_match():
    stored = tensors(fc__weight=(3, 2), fc__bias=(3,))

    assert match_names(stored, dict(stored)) == {n: n for n in stored}


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_a_wrappers_prefix_is_taken_off_on_either_side(prefix):
    stored = tensors(fc__weight=(3, 2))
    wrapped = {prefix + name: tensor for name, tensor in stored.items()}

    assert match_names(stored, wrapped) == {"fc.weight": prefix + "fc.weight"}
    assert match_names(wrapped, stored) == {prefix + "fc.weight": "fc.weight"}


def test_equal_names_match_before_those_that_differ_by_a_wrapper():
    stored = tensors(w=(2, 2), module__w=(2, 2))

    assert match_names(stored, dict(stored)) == {n: n for n in stored}


@pytest.mark.parametrize("prefix", ["", "_orig_mod."])
def test_two_names_that_are_one_without_a_wrapper_never_share_a_target(prefix):
    stored = {f"{prefix}w": torch.randn(2, 2), "module.w": torch.randn(2, 2)}

    with pytest.raises(CannotFitError, match="cannot be told apart"):
        match_names(stored, tensors(w=(2, 2)))


def test_other_names_match_by_a_shape_that_occurs_once():
    stored = tensors(fc__weight=(3, 2), fc__bias=(3,))
    wanted = tensors(linear__bias=(3,), linear__weight=(3, 2))

    assert match_names(stored, wanted) == {
        "fc.weight": "linear.weight",
        "fc.bias": "linear.bias",
    }


def test_names_that_match_are_out_of_the_way_of_shapes():
    stored = tensors(a__weight=(2, 2), b__weight=(2, 2))
    wanted = tensors(a__weight=(2, 2), c__weight=(2, 2))

    assert match_names(stored, wanted)["b.weight"] == "c.weight"


def test_two_candidates_are_refused():
    stored = tensors(a=(2, 2), b=(2, 2))
    wanted = tensors(c=(2, 2), d=(2, 2))

    with pytest.raises(CannotFitError, match="cannot be told apart") as caught:
        match_names(stored, wanted)

    assert "--map" in caught.value.hint


def test_a_mapping_decides():
    stored = tensors(a=(2, 2), b=(2, 2))
    wanted = tensors(c=(2, 2), d=(2, 2))

    assert match_names(stored, wanted, {"a": "d"}) == {"a": "d", "b": "c"}


@pytest.mark.parametrize(
    "mapping", [{"gone": "c"}, {"a": "gone"}, {"a": "c", "b": "c"}]
)
def test_a_mapping_that_cannot_be_is_refused(mapping):
    with pytest.raises(CannotFitError, match="mapping"):
        match_names(tensors(a=(2,), b=(2,)), tensors(c=(2,), d=(2,)), mapping)


@pytest.mark.parametrize(
    ("stored", "wanted"),
    [
        (tensors(a=(2,)), tensors(a=(2,), b=(2,))),
        (tensors(a=(2,), b=(2,)), tensors(a=(2,))),
        (tensors(a=(2,)), tensors(a=(3,))),
        (tensors(a=(2,)), tensors(b=(3,))),
    ],
    ids=["too_few", "too_many", "other_shape", "other_name_and_shape"],
)
def test_models_that_do_not_fit_are_refused(stored, wanted):
    with pytest.raises(CannotFitError):
        match_names(stored, wanted)


def test_nothing_is_copied_unless_everything_fits():
    model = nn.Linear(2, 2)
    before = model.weight.clone()

    with pytest.raises(CannotFitError, match=r"float64"):
        load_into(
            model,
            {"weight": torch.ones(2, 2), "bias": torch.ones(2, dtype=torch.float64)},
        )

    assert torch.equal(model.weight, before)


def test_parameters_and_buffers_are_copied_bit_for_bit():
    stored = nn.BatchNorm1d(3)
    stored.running_mean.fill_(float("nan"))
    stored.num_batches_tracked.fill_(2**53 + 1)
    model = nn.Sequential(nn.BatchNorm1d(3))

    load_into(model, {f"module.0.{n}": t for n, t in stored.state_dict().items()})

    assert model[0].num_batches_tracked == 2**53 + 1
    assert model[0].running_mean.isnan().all()
    assert model[0].weight.requires_grad
