import math

import pytest
import torch

from agent.rundir.chunks.errors import NoSuchRoundError
from tests.trainer.chunks.store_faults import flip_bit, store_path
from trainer.chunks.diff import diff_rounds
from trainer.chunks.split import FlatSplit, TensorSplit
from trainer.chunks.store import ChunkStore


def diffs(store, old=1, new=2):
    with store.reader() as reader:
        return {diff.name: diff for diff in diff_rounds(reader, old, new)}


def test_figures_are_those_of_the_definition(store):
    old, new = torch.randn(50, 40), torch.randn(50, 40)
    store.put_round(1, {"w": old})
    store.put_round(2, {"w": new})

    diff = diffs(store)["w"]

    flat = [t.double().flatten() for t in (old, new)]
    assert diff.state == "changed"
    assert diff.l2 == pytest.approx(float((flat[1] - flat[0]).norm()))
    assert diff.max_abs == pytest.approx(float((flat[1] - flat[0]).abs().max()))
    assert diff.cosine == pytest.approx(
        float(torch.cosine_similarity(flat[0], flat[1], dim=0))
    )


@pytest.mark.parametrize("split", [TensorSplit(64), FlatSplit(5)])
def test_changed_chunks_are_counted(store, split):
    old = {"w": torch.zeros(160), "same": torch.ones(160)}
    new = {"w": torch.zeros(160), "same": torch.ones(160)}
    new["w"][0] = 1
    store.put_round(1, old, split=split)
    store.put_round(2, new, split=split)

    diff = diffs(store)["w"]

    assert diff.num_changed_chunks == 1
    assert diff.num_chunks == (10 if isinstance(split, TensorSplit) else 3)
    assert (diff.l2, diff.max_abs, diff.cosine) == (1, 1, None)


def test_what_is_the_same_is_not_even_read(store):
    model = {"same": torch.randn(100), "w": torch.zeros(3)}
    store.put_round(1, model)
    store.put_round(2, {**model, "w": torch.ones(3)})
    digest = store.layout(1).chunks[0].digest
    store.settle()
    flip_bit(store.path, digest)

    diff = diffs(store)["same"]

    assert (diff.state, diff.l2, diff.cosine) == ("same", 0.0, 1.0)
    assert diff.num_changed_chunks == 0


def test_the_same_tensor_in_another_split_is_the_same(store):
    model = {"w": torch.randn(100)}
    store.put_round(1, model, split=TensorSplit(64))
    store.put_round(2, model, split=TensorSplit(128))

    diff = diffs(store)["w"]

    assert diff.state == "same"
    assert diff.l2 == 0.0
    assert diff.cosine == pytest.approx(1)


def test_the_same_chunks_in_another_order_are_a_change(store):
    values = torch.arange(32.0)
    store.put_round(1, {"w": values}, split=TensorSplit(64))
    store.put_round(2, {"w": values.roll(16)}, split=TensorSplit(64))

    diff = diffs(store)["w"]

    assert diff.state == "changed"
    assert diff.max_abs == 16


def test_tensors_that_change_places_in_a_chunk_are_a_change(store):
    first, second = torch.zeros(4), torch.ones(4)
    store.put_round(1, {"a": first, "b": second}, split=FlatSplit(1))
    store.put_round(2, {"b": first, "a": second}, split=FlatSplit(1))

    assert {diff.state for diff in diffs(store).values()} == {"changed"}


def test_tensors_come_and_go_and_change_their_form(store):
    store.put_round(1, {"gone": torch.ones(2), "cast": torch.ones(2)})
    store.put_round(2, {"new": torch.ones(3), "cast": torch.ones(2).double()})

    found = diffs(store)

    assert {name: diff.state for name, diff in found.items()} == {
        "new": "added",
        "cast": "reshaped",
        "gone": "removed",
    }
    assert found["cast"].l2 is None


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("where", [0, 1_500_000])
def test_what_is_not_finite_has_no_figures(store, bad, where):
    old = torch.zeros(2_000_000)
    new = old.clone()
    new[where] = bad
    store.put_round(1, {"w": old})
    store.put_round(2, {"w": new})

    diff = diffs(store)["w"]

    assert diff.state == "changed"
    assert (diff.l2, diff.max_abs, diff.cosine) == (None, None, None)


@pytest.mark.filterwarnings("ignore:ComplexHalf")
@pytest.mark.parametrize(
    "dtype",
    [
        torch.bool,
        torch.int64,
        torch.uint16,
        torch.bfloat16,
        torch.float8_e4m3fn,
        torch.complex64,
        torch.complex32,
    ],
    ids=str,
)
def test_any_numbers_are_compared(store, dtype):
    store.put_round(1, {"w": torch.tensor([0.0, 1.0]).to(dtype)})
    store.put_round(2, {"w": torch.tensor([1.0, 1.0]).to(dtype)})

    diff = diffs(store)["w"]

    assert (diff.l2, diff.max_abs) == (1.0, 1.0)
    assert diff.cosine == pytest.approx(math.sqrt(0.5))


def test_bit_fields_are_told_apart_without_figures(store):
    ones = torch.ones(4, dtype=torch.uint8)
    store.put_round(1, {"w": ones.view(torch.float4_e2m1fn_x2)})
    store.put_round(2, {"w": (ones + 1).view(torch.float4_e2m1fn_x2)})

    diff = diffs(store)["w"]

    assert (diff.state, diff.l2) == ("changed", None)


def test_rounds_of_two_nodes_are_compared(store, tmp_path):
    store.put_round(1, {"w": torch.zeros(2)})
    with ChunkStore.open(store_path(tmp_path, "client-1")) as other:
        other.put_round(7, {"w": torch.tensor([3.0, 4.0])})

        with store.reader() as left, other.reader() as right:
            (diff,) = diff_rounds(left, 1, 7, right)

    assert (diff.l2, diff.max_abs) == (5.0, 4.0)


def test_a_round_that_is_not_there_is_an_error(store):
    store.put_round(1, {"w": torch.zeros(2)})

    with pytest.raises(NoSuchRoundError):
        diffs(store)
