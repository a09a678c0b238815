"""What a step makes of a user's model and batches."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from trainer.loop.stepping import count_tokens, default_loss, to_device

LOSS = torch.tensor(2.5)


class Returns(nn.Module):
    def __init__(self, value):
        super().__init__()
        self.value = value
        self.calls = []

    def forward(self, *arguments, **named):
        self.calls.append((arguments, named))
        return self.value


@pytest.mark.parametrize(
    "value",
    [LOSS, (LOSS, "logits"), {"loss": LOSS}, SimpleNamespace(loss=LOSS)],
    ids=["tensor", "tuple", "dict", "attribute"],
)
def test_the_loss_is_found_in_what_a_model_returns(value):
    assert default_loss(Returns(value), torch.ones(1)) is LOSS


@pytest.mark.parametrize(
    ("batch", "call"),
    [
        ((1, 2), ((1, 2), {})),
        ([1, 2], ((1, 2), {})),
        ({"x": 1}, ((), {"x": 1})),
        (7, ((7,), {})),
    ],
)
def test_a_batch_is_passed_as_it_is_made(batch, call):
    model = Returns(LOSS)

    default_loss(model, batch)

    assert model.calls == [call]


@pytest.mark.parametrize("value", [torch.ones(3), "nothing", (torch.ones(2),)])
def test_a_model_without_a_scalar_loss_is_refused(value):
    with pytest.raises(TypeError, match="give a loss function"):
        default_loss(Returns(value), 1)


@pytest.mark.parametrize(
    ("batch", "num_tokens"),
    [
        ((torch.zeros(4, 8, dtype=torch.int64), None), 32),
        ({"x": torch.zeros(4, 8)}, 4),
        (["text", torch.zeros(3, dtype=torch.int64)], 3),
        (torch.tensor(1.0), 0),
        ("no tensor at all", 0),
    ],
)
def test_tokens_are_counted_where_there_are_any(batch, num_tokens):
    assert count_tokens(batch) == num_tokens


def test_every_tensor_of_a_batch_is_moved_and_its_shape_stays():
    batch = {"a": [torch.ones(1), "x"], "b": (torch.ones(2), 3)}

    moved = to_device(batch, torch.device("meta"))

    assert moved["a"][0].device.type == moved["b"][0].device.type == "meta"
    assert (moved["a"][1], moved["b"][1]) == ("x", 3)
    assert isinstance(moved["b"], tuple)
