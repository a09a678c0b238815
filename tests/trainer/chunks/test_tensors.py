import math
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.rundir.chunks.layout import BadLayoutError
from agent.rundir.chunks.records import TensorRow
from tests.trainer.chunks.store_faults import raw_bytes, store_path
from trainer.chunks.split import FlatSplit, TensorSplit
from trainer.chunks.store import ChunkStore
from trainer.chunks.tensors import empty_tensor, has_nonfinite, settle

QUANTIZED = [torch.qint8, torch.quint8, torch.qint32, torch.quint4x2, torch.quint2x4]

DTYPES = sorted(
    {
        value
        for value in vars(torch).values()
        if isinstance(value, torch.dtype) and value not in QUANTIZED
    },
    key=str,
)


def random_tensor(dtype, shape, seed):
    """A tensor of any bits, NaN payloads and signalling ones included."""
    generator = torch.Generator().manual_seed(seed)
    num_bytes = math.prod(shape) * dtype.itemsize
    bits = torch.randint(0, 256, (num_bytes,), dtype=torch.uint8, generator=generator)
    if dtype is torch.bool:
        bits &= 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # complex32 calls itself experimental
        tensor = torch.empty(shape, dtype=dtype)
    torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage())[:] = bits
    return tensor


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    with ChunkStore.open(store_path(tmp_path_factory.mktemp("run"))) as opened:
        yield opened


def test_every_dtype_of_this_torch_is_tried():
    assert len(DTYPES) > 40
    assert {torch.bfloat16, torch.float8_e5m2, torch.uint4, torch.bits16} <= set(DTYPES)


@pytest.mark.filterwarnings("ignore:ComplexHalf")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(), (0,), (7,), (3, 0, 2), (5, 3, 2)], ids=str)
def test_every_dtype_and_shape_comes_back_bit_for_bit(store, dtype, shape):
    tensor = random_tensor(dtype, shape, seed=len(shape))

    store.put_round(1, {"t": tensor}, replace=True, split=TensorSplit(16))
    loaded = store.get_round(1)["t"]

    assert (loaded.dtype, loaded.shape) == (tensor.dtype, tensor.shape)
    assert raw_bytes(loaded) == raw_bytes(tensor)


@pytest.mark.filterwarnings("ignore:ComplexHalf")
@settings(max_examples=60, deadline=None)
@given(
    parts=st.lists(
        st.tuples(
            st.sampled_from(DTYPES),
            st.lists(st.integers(0, 9), max_size=3).map(tuple),
        ),
        max_size=6,
    ),
    split=st.one_of(
        st.integers(16, 200).map(TensorSplit), st.integers(1, 20).map(FlatSplit)
    ),
)
def test_any_mixture_comes_back_bit_for_bit(store, parts, split):
    model = {
        f"t{i}": random_tensor(dtype, shape, seed=i)
        for i, (dtype, shape) in enumerate(parts)
    }

    store.put_round(1, model, replace=True, split=split)
    loaded = store.get_round(1)

    assert {n: (t.dtype, t.shape, raw_bytes(t)) for n, t in loaded.items()} == {
        n: (t.dtype, t.shape, raw_bytes(t)) for n, t in model.items()
    }


@pytest.mark.parametrize(
    "view",
    [
        lambda t: t.t(),
        lambda t: t[::2, 1::3],
        lambda t: t[3:5],
        lambda t: t.expand(2, 12, 10),
        lambda t: t.reshape(1, 3, 4, 10).to(memory_format=torch.channels_last),
        lambda t: t[2, 3],
    ],
    ids=["transposed", "strided", "offset", "expanded", "channels_last", "scalar"],
)
def test_views_are_stored_as_what_they_show(store, view):
    shown = view(torch.randn(12, 10))

    store.put_round(1, {"t": shown}, replace=True)

    assert torch.equal(store.get_round(1)["t"], shown)


@pytest.mark.parametrize("dtype", [torch.int4, torch.float8_e5m2, torch.bool], ids=str)
def test_strided_bytes_of_any_kind_are_gathered(store, dtype):
    whole = random_tensor(dtype, (6, 4), seed=3)

    store.put_round(1, {"t": whole.t()}, replace=True)
    loaded = store.get_round(1)["t"]

    assert torch.equal(loaded.view(torch.uint8), whole.view(torch.uint8).t())


def test_lazy_conjugates_and_negations_are_stored_as_what_they_show(store):
    values = torch.randn(4, dtype=torch.complex64)
    model = {"conj": values.conj(), "neg": values.conj().imag, "plain": values}

    store.put_round(1, model, replace=True)
    loaded = store.get_round(1)

    assert all(torch.equal(loaded[name], tensor) for name, tensor in model.items())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dtype", QUANTIZED, ids=str)
def test_quantized_tensors_keep_scale_and_zero_point(store, dtype):
    tensor = torch.quantize_per_tensor(torch.randn(5, 3), 0.1, 2, dtype)

    store.put_round(1, {"t": tensor}, replace=True)
    loaded = store.get_round(1)["t"]

    assert (loaded.q_scale(), loaded.q_zero_point()) == (0.1, 2)
    assert torch.equal(loaded.int_repr(), tensor.int_repr())


@pytest.mark.filterwarnings("ignore")
def test_quantized_channels_keep_their_scales(store):
    scales = torch.tensor([0.1, 0.25, 1 / 3], dtype=torch.float64)
    tensor = torch.quantize_per_channel(
        torch.randn(3, 4), scales, torch.tensor([1, 2, 3]), 0, torch.qint8
    )

    store.put_round(1, {"t": tensor}, replace=True)
    loaded = store.get_round(1)["t"]

    assert torch.equal(loaded.q_per_channel_scales(), scales)
    assert loaded.q_per_channel_axis() == 0
    assert torch.equal(loaded.int_repr(), tensor.int_repr())


@pytest.mark.filterwarnings("ignore")
def test_quantized_tensors_can_be_split_flat(store):
    model = {
        "a": torch.quantize_per_tensor(torch.randn(7), 0.1, 2, torch.quint4x2),
        "b": torch.randn(5),
    }

    store.put_round(1, model, replace=True, split=FlatSplit(4))

    assert torch.equal(store.get_round(1)["a"].int_repr(), model["a"].int_repr())


@pytest.mark.parametrize(
    "tensor",
    [torch.eye(3).to_sparse(), torch.empty(3, device="meta")],
    ids=["sparse", "meta"],
)
def test_what_has_no_dense_bytes_is_refused_by_name(tensor):
    with pytest.raises(TypeError, match="`odd` is not a dense tensor"):
        settle(tensor, "odd")


def test_parameters_and_gradients_do_not_matter(store):
    parameter = torch.nn.Parameter(torch.randn(3))
    (parameter * 2).sum().backward()

    store.put_round(1, {"p": parameter}, replace=True)
    loaded = store.get_round(1)["p"]

    assert torch.equal(loaded, parameter.detach())
    assert not loaded.requires_grad


@pytest.mark.parametrize(
    ("dtype", "shape", "num_bytes"),
    [
        ("float32", (2, 2), 12),
        ("float32", (1 << 40,), 4),
        ("no_such_dtype", (1,), 4),
        ("Tensor", (1,), 4),
    ],
)
def test_sizes_that_do_not_fit_are_refused_before_memory_is_taken(
    dtype, shape, num_bytes
):
    row = TensorRow("t", "parameter", dtype, shape, 4, num_bytes)

    with pytest.raises(BadLayoutError):
        empty_tensor(row)


@pytest.mark.parametrize("text", ["[]", "[1]", '["x", "y"]', "{", "[[1], [2], 9]"])
def test_a_made_up_quantizer_is_refused(text):
    row = TensorRow("t", "parameter", "qint8", (2,), 1, 2, quantizer=text)

    with pytest.raises(BadLayoutError, match="quantizer"):
        empty_tensor(row)


@pytest.mark.parametrize(
    "dtype",
    [d for d in DTYPES if d.is_floating_point and d.itemsize == 1],
    ids=str,
)
def test_small_floats_are_looked_at_for_nan(dtype):
    tensor = torch.zeros(4).to(torch.uint8).view(dtype)

    assert not has_nonfinite(tensor)


def test_a_nan_in_eight_bits_is_seen():
    tensor = torch.tensor([1.0, math.nan]).to(torch.float8_e4m3fn)

    assert has_nonfinite(tensor)
