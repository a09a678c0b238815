import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from agent.rundir.chunks.layout import BadLayoutError
from trainer.chunks.nested import put_together, take_apart

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.integers() | st.text(), inner, max_size=3)
    ),
    max_leaves=12,
)


def same(left, right):
    if type(left) is not type(right):
        return False
    if isinstance(left, dict):
        return list(left) == list(right) and all(same(left[k], right[k]) for k in left)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(same, left, right))
    return left == right


@given(st.dictionaries(st.integers() | st.text(), plain, max_size=4))
def test_plain_values_come_back_with_their_types(state):
    text, tensors = take_apart(state)

    assert tensors == {}
    assert same(put_together(text, {}), state)


def test_nan_and_infinities_come_back():
    text, _ = take_apart({"a": float("inf"), "b": float("nan")})
    loaded = put_together(text, {})

    assert loaded["a"] == float("inf")
    assert loaded["b"] != loaded["b"]


def test_paths_that_read_alike_name_different_tensors():
    state = {
        "a.b": torch.tensor(1.0),
        "a": {"b": torch.tensor(2.0)},
        0: torch.tensor(3.0),
        "0": torch.tensor(4.0),
    }

    text, tensors = take_apart(state)
    again = put_together(text, tensors)

    found = [again["a.b"], again["a"]["b"], again[0], again["0"]]
    assert [tensor.item() for tensor in found] == [1.0, 2.0, 3.0, 4.0]


def test_tensors_are_named_by_their_path():
    state = {"state": {0: {"exp_avg": torch.ones(2)}}, "list": [torch.zeros(1)]}

    text, tensors = take_apart(state)

    assert list(tensors) == ["optimizer:state.0.exp_avg", "optimizer:list.0"]
    assert (
        put_together(text, tensors)["state"][0]["exp_avg"]
        is state["state"][0]["exp_avg"]
    )


@pytest.mark.parametrize(
    "optimizer",
    [
        torch.optim.SGD,
        torch.optim.Adam,
        torch.optim.AdamW,
        torch.optim.RMSprop,
        torch.optim.Adagrad,
    ],
)
def test_the_state_of_optimizers_can_be_loaded_again(optimizer):
    weight = torch.nn.Parameter(torch.ones(3))
    options = {"momentum": 0.9} if optimizer in (torch.optim.SGD,) else {}
    trained = optimizer([weight], lr=0.1, **options)
    weight.square().sum().backward()
    trained.step()

    loaded = put_together(*take_apart(trained.state_dict()))
    fresh = optimizer([weight], lr=9, **options)
    fresh.load_state_dict(loaded)

    assert str(fresh.state_dict()) == str(trained.state_dict())


@pytest.mark.parametrize("value", [object(), {1, 2}, b"bytes", 1j])
def test_what_is_not_plain_is_refused_with_its_path(value):
    with pytest.raises(TypeError, match=r"`optimizer:a\.0` is a"):
        take_apart({"a": [value]})


def test_a_state_that_holds_itself_is_refused():
    state: dict = {}
    state["me"] = state

    with pytest.raises(TypeError, match="nested too deeply"):
        take_apart(state)


@pytest.mark.parametrize(
    "text",
    ["", "{", '{"tensor":"gone"}', '{"a":1,"b":2}', '{"dict":[1]}', "[" * 9999],
)
def test_a_damaged_state_is_an_error_of_its_own(text):
    with pytest.raises(BadLayoutError):
        put_together(text, {})


def test_what_is_written_is_json():
    text, _ = take_apart({"lr": 0.1})

    assert json.loads(text) == {"dict": [["lr", 0.1]]}
