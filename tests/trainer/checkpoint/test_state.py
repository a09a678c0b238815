"""What a checkpoint holds goes back into a trainer, bit for bit."""

import copy
import io
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests.trainer.checkpoint.states import CPU, make_state, payload
from trainer.checkpoint.checking import (
    NotRestoredError,
    differences,
    is_bitwise_equal,
    require_equal,
)
from trainer.checkpoint.rng import capture_rng, restore_rng, seed_everything
from trainer.checkpoint.state import (
    ModelMismatchError,
    capture,
    restore,
    restore_weights,
    snapshot,
)
from trainer.distributed.world import World
from trainer.optim.ema import WeightAverage
from trainer.optim.schedules import Schedule, ScheduledRates, TorchRates

DTYPES = [
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16),
    *(torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e8m0fnu),
    *(torch.float8_e4m3fnuz, torch.float8_e5m2fnuz),
    *(torch.complex32, torch.complex64, torch.complex128),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
    *(torch.uint16, torch.uint32, torch.uint64),
]


def saved_and_loaded(state):
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


@st.composite
def tensors(draw):
    dtype = draw(st.sampled_from(DTYPES))
    shape = draw(st.lists(st.integers(0, 4), max_size=3))
    num_bytes = torch.empty(shape, dtype=dtype).nbytes
    data = draw(st.binary(min_size=num_bytes, max_size=num_bytes))
    if dtype is torch.bool:
        data = bytes(byte & 1 for byte in data)
    if not num_bytes:
        return torch.empty(shape, dtype=dtype)
    tensor = torch.frombuffer(bytearray(data), dtype=dtype).reshape(shape)
    is_turned = tensor.dim() > 1 and draw(st.booleans())
    return tensor.t() if is_turned and tensor.dim() == 2 else tensor


@pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental")
@settings(max_examples=200)
@given(st.lists(tensors(), min_size=1, max_size=4))
def test_every_tensor_comes_back_bit_for_bit(found):
    state = {"list": found, "tied": found[0], "view": found[0].view(found[0].shape)}

    assert differences(state, saved_and_loaded(state)) == []
    assert differences(state, snapshot(state)) == []


def test_a_restored_state_is_the_saved_one():
    saved = saved_and_loaded(payload(make_state(seed=1)))
    state = make_state(seed=2)
    assert differences(saved, payload(state))

    remarks = restore(saved, state, World(), seed=0)

    assert remarks == []
    assert differences(saved, payload(state)) == []
    require_equal(saved, state, World())


def test_training_goes_on_as_if_it_had_never_stopped():
    whole, parted = make_state(seed=1), make_state(seed=2)
    saved = saved_and_loaded(payload(whole))

    restore(saved, parted, World(), seed=0)
    restore_rng(saved["rng"][0], CPU)
    ours = train_on(parted)
    restore_rng(saved["rng"][0], CPU)
    theirs = train_on(whole)

    assert ours == theirs
    assert differences(payload(whole), payload(parted)) == []


def train_on(state):
    losses = []
    for _ in range(3):
        loss = state.model(torch.randn(5, 4)).square().sum()
        loss.backward()
        state.optimizer.step()
        state.optimizer.zero_grad()
        losses.append(loss.item())
    return losses


PIECES = {
    "model": lambda s: s.model[0].weight.data.add_(1e-7),
    "optimizer": lambda s: s.optimizer.state[s.model[0].weight]["exp_avg"].add_(1.0),
    "scheduler": lambda s: setattr(s.rates, "step", 9),
    "average": lambda s: s.average.model[0].weight.add_(1e-7),
    "progress": lambda s: setattr(s.progress, "offset", 14),
    "rng": lambda s: torch.rand(1),
}


@pytest.mark.parametrize("piece", sorted(PIECES))
def test_a_piece_that_is_missing_after_a_resume_is_named(piece):
    saved = saved_and_loaded(payload(make_state(seed=1)))
    state = make_state(seed=2)
    restore(copy.deepcopy(saved), state, World(), seed=0)

    with torch.no_grad():
        PIECES[piece](state)

    with pytest.raises(NotRestoredError, match=f"did not restore `{piece}"):
        require_equal(saved, state, World())


def test_a_checkpoint_without_an_average_starts_one_from_its_weights():
    saved = payload(make_state(seed=1, with_average=False))
    state = make_state(seed=2)

    remarks = restore(saved, state, World(), seed=0)

    assert remarks == [
        "the checkpoint has no average of the weights: it starts from them"
    ]
    assert torch.equal(state.average.model[0].weight, saved["model"]["0.weight"])


def test_keys_that_a_wrapper_left_behind_are_taken():
    saved = payload(make_state(seed=1))
    saved["model"] = {f"module.{name}": v for name, v in saved["model"].items()}
    state = make_state(seed=2)

    restore(saved, state, World(), seed=0)

    assert torch.equal(state.model[0].weight, saved["model"]["module.0.weight"])


class Holding(nn.Module):
    def __init__(self, part):
        super().__init__()
        self.module = part


def test_a_part_of_its_own_that_is_called_module_keeps_its_name():
    state, other = make_state(), make_state(seed=1)
    for one in (state, other):
        one.model = Holding(one.model)
        one.average = WeightAverage(one.model, 0.9)
    saved = payload(state)

    restore(saved, other, World(), seed=1, with_optimizer=False)

    assert differences(saved["model"], payload(other)["model"]) == []
    assert differences(saved["average"], payload(other)["average"]) == []


@pytest.mark.parametrize("kind", ["ours", "torch's"])
def test_a_new_optimizer_keeps_its_own_rates_at_the_step_of_the_checkpoint(kind):
    saved, other = payload(make_state()), make_state(seed=1)
    groups = [{"params": [p]} for p in other.model.parameters()]
    optimizer = torch.optim.SGD(groups, lr=0.5)
    other.optimizer = optimizer
    if kind == "ours":
        other.rates = ScheduledRates(Schedule("linear", 6), optimizer)
    else:
        linear = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=6)
        other.rates = TorchRates(linear)

    remarks = restore(saved, other, World(), seed=1, with_optimizer=False)

    assert remarks == ["the optimizer starts afresh"]
    assert other.progress.step == 3
    rates = [group["lr"] for group in optimizer.param_groups]
    assert rates == pytest.approx([0.25] * 4)


def test_another_number_of_ranks_is_told_and_gets_random_numbers_of_its_own():
    saved = payload(make_state(seed=1))

    state = make_state(seed=2)
    remarks = restore(saved, state, World(rank=1, world_size=2), seed=0)

    assert len(remarks) == 1
    assert "saved by 1 ranks, resumed by 2" in remarks[0]
    assert not torch.equal(torch.get_rng_state(), saved["rng"][0]["torch"])


def test_only_the_weights_go_back_when_a_stage_is_repeated():
    saved = saved_and_loaded(payload(make_state(seed=1)))
    state = make_state(seed=2)
    state.progress.step = 77
    state.rates.advance(7)
    rate = state.optimizer.param_groups[0]["lr"]

    restore_weights(saved, state)

    now = payload(state)
    assert differences(saved["model"], now["model"]) == []
    assert differences(saved["average"], now["average"]) == []
    assert differences(saved["optimizer"]["state"], now["optimizer"]["state"]) == []
    assert state.optimizer.param_groups[0]["lr"] == rate
    assert state.progress.step == 77


def test_a_snapshot_does_not_change_when_training_goes_on():
    state = make_state()
    before = saved_and_loaded(payload(state))
    taken = snapshot(capture(state, before["rng"]))

    train_on(state)

    assert differences(before, taken) == []


def test_a_snapshot_keeps_what_is_shared_shared():
    weight = torch.arange(12.0).reshape(3, 4)

    taken = snapshot({"one": weight, "other": weight.t(), "part": weight[1]})

    storages = {t.untyped_storage().data_ptr() for t in taken.values()}
    assert len(storages) == 1
    assert storages != {weight.untyped_storage().data_ptr()}
    assert taken["other"].tolist() == weight.t().tolist()


def draws():
    return (
        torch.rand(3).tolist(),
        random.random(),
        random.gauss(0, 1),
        np.random.rand(2).tolist(),
        np.random.randn(),
    )


def test_every_generator_goes_on_where_it_was():
    seed_everything(3, rank=1)
    random.gauss(0, 1)
    np.random.randn()
    state = saved_and_loaded(capture_rng(CPU))
    expected = draws()

    seed_everything(4, rank=0)
    restore_rng(state, CPU)

    assert draws() == expected


def test_ranks_and_seeds_draw_different_numbers_and_the_same_ones_again():
    def first(seed, rank):
        seed_everything(seed, rank)
        return draws()

    found = [first(1, 0), first(1, 1), first(2, 0)]

    assert len(set(map(str, found))) == 3
    assert first(1, 1) == found[1]


def test_nan_equals_itself_and_zero_does_not_equal_minus_zero():
    nan, zero = torch.tensor([float("nan")]), torch.tensor([0.0])

    assert is_bitwise_equal(nan, nan.clone())
    assert not is_bitwise_equal(zero, -zero)
    assert not is_bitwise_equal(zero, zero.double())
    assert not is_bitwise_equal(zero, zero.reshape(1, 1))


def test_differences_name_what_is_missing_on_either_side():
    one = {"a": [1, 2], "b": {"c": 1}, "d": None}
    other = {"a": [1, 3], "b": {}, "d": 0}

    assert differences(one, other) == ["a.1", "b.c", "d"]
    assert differences({"a": [1]}, {"a": [1, 2]}) == ["a"]


def test_a_model_of_another_shape_is_refused():
    saved = payload(make_state())
    state = make_state(width=5)

    with pytest.raises(ModelMismatchError, match=r"size mismatch for 0.weight"):
        restore(saved, state, World(), seed=0)
    assert isinstance(state.model, nn.Module)
