"""A model arrives bit for bit, once, and nothing else does."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.rundir.chunks.payload import Payload
from trainer.chunks.split import TensorSplit
from trainer.federated.transfer import (
    ForeignModelError,
    OverlongLayoutError,
    Parcel,
    check_same_tensors,
    pack,
    read_layout,
)

DTYPES = (
    torch.float32,
    torch.float64,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.uint8,
    torch.bool,
    torch.complex64,
)


def model():
    tied = torch.arange(12.0).reshape(3, 4)
    return {
        "embed": tied,
        "head": tied,
        "half": torch.randn(
            5, 7, generator=torch.Generator().manual_seed(1)
        ).bfloat16(),
        "view": torch.arange(20.0).reshape(4, 5).t(),
        "count": torch.tensor(3),
        "empty": torch.zeros(0, 4),
        "odd": torch.tensor([math.nan, -0.0, math.inf]),
    }


def same_bits(a, b):
    raw = [t.reshape(-1).contiguous().view(torch.uint8) for t in (a, b)]
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(*raw)


def deliver(packed, parcel):
    for digest in parcel.lacking:
        parcel.receive(packed.payloads[digest])


def test_everything_arrives_bit_for_bit():
    packed = pack(model(), split=TensorSplit(16))
    parcel = Parcel(packed.layout)

    deliver(packed, parcel)
    found = parcel.unpack()

    assert found.keys() == model().keys()
    for name, tensor in model().items():
        assert same_bits(found[name], tensor), name
    assert found["embed"].data_ptr() == found["head"].data_ptr()


@given(
    st.sampled_from(DTYPES),
    st.lists(st.integers(0, 5), max_size=3),
    st.integers(16, 64),
    st.integers(0, 2**31),
)
@settings(max_examples=60, deadline=None)
def test_any_dtype_and_shape_arrives(dtype, shape, chunk_bytes, seed):
    generator = torch.Generator().manual_seed(seed)
    tensor = torch.randint(0, 100, shape, generator=generator).to(dtype)
    packed = pack({"x": tensor}, split=TensorSplit(chunk_bytes))
    parcel = Parcel(packed.layout)

    deliver(packed, parcel)

    assert same_bits(parcel.unpack()["x"], tensor)


def test_what_was_packed_does_not_change_with_the_model():
    tensors = {"w": torch.ones(4)}
    packed = pack(tensors)

    tensors["w"].zero_()
    parcel = Parcel(packed.layout)
    deliver(packed, parcel)

    assert torch.equal(parcel.unpack()["w"], torch.ones(4))


def test_only_chunks_that_are_lacking_are_asked_for():
    before = {"frozen": torch.ones(100), "head": torch.zeros(100)}
    after = {"frozen": torch.ones(100), "head": torch.ones(100) * 2}
    first, second = pack(before), pack(after)
    parcel = Parcel(second.layout)

    parcel.reuse(first.payloads)

    lacking = [c.digest for c in second.layout.chunks if c.parts[0].name == "head"]
    assert list(parcel.lacking) == lacking


def test_a_broken_transfer_goes_on_where_it_stopped():
    packed = pack({"w": torch.arange(100.0)}, split=TensorSplit(40))
    broken = Parcel(packed.layout)
    for digest in broken.lacking[:6]:
        broken.receive(packed.payloads[digest])

    again = Parcel(packed.layout)
    again.resume(broken.received)
    num_lacking, was_whole = len(again.lacking), again.is_whole
    deliver(packed, again)

    assert (num_lacking, was_whole, again.is_whole) == (4, False, True)
    assert again.num_received_bytes == 400
    assert torch.equal(again.unpack()["w"], torch.arange(100.0))


def test_a_chunk_that_is_here_is_no_other_because_a_peer_says_so():
    mine = pack({"w": torch.ones(8)})
    (payload,) = mine.payloads.values()
    lying = pack({"w": torch.ones(4)}).layout
    lying = replace(lying, chunks=(replace(lying.chunks[0], digest=payload.digest),))
    parcel = Parcel(lying)

    parcel.reuse(mine.payloads)

    assert parcel.lacking == (payload.digest,)


def test_a_chunk_counts_once_and_only_if_it_was_described():
    packed = pack({"w": torch.ones(8)})
    other = pack({"w": torch.zeros(8)})
    parcel = Parcel(packed.layout)
    (payload,) = packed.payloads.values()
    (foreign,) = other.payloads.values()

    taken = [parcel.receive(p) for p in (foreign, payload, payload)]

    assert taken == [False, True, False]


@pytest.mark.parametrize(
    "damage",
    [
        lambda p: Payload(p.digest, p.dtype, b"\1" + p.data[1:]),
        lambda p: Payload(p.digest, p.dtype, p.data[:-1]),
        lambda p: Payload(p.digest, p.dtype, p.data + b"\0" * 1000),
        lambda p: Payload(p.digest, "int32", p.data),
    ],
)
def test_other_bytes_under_a_digest_are_refused(damage):
    packed = pack({"w": torch.zeros(8)})
    parcel = Parcel(packed.layout)
    (payload,) = packed.payloads.values()

    with pytest.raises(ForeignModelError, match="was received with other bytes"):
        parcel.receive(damage(payload))

    assert parcel.lacking == (payload.digest,)


@pytest.mark.parametrize(
    ("tensors", "told"),
    [
        ({"w": torch.zeros(3, 4)}, r"`b` is not there, expected float32 \[4\]"),
        (
            {"w": torch.zeros(4, 3), "b": torch.zeros(4)},
            r"`w` is float32 \[4, 3\], expected float32 \[3, 4\]",
        ),
        (
            {"w": torch.zeros(3, 4).double(), "b": torch.zeros(4)},
            r"`w` is float64 \[3, 4\], expected float32 \[3, 4\]",
        ),
        (
            {"w": torch.zeros(3, 4), "b": torch.zeros(4), "x": torch.zeros(1)},
            r"`x` is float32 \[1\], expected not there",
        ),
    ],
)
def test_another_model_is_refused_before_memory_is_spent_on_it(tensors, told):
    expected = pack({"w": torch.zeros(3, 4), "b": torch.zeros(4)}).layout

    with pytest.raises(ForeignModelError, match=told):
        check_same_tensors(expected, pack(tensors).layout)


def test_a_tensor_that_claims_more_bytes_than_its_shape_has_is_refused():
    expected = pack({"w": torch.zeros(8)}).layout
    (row,), (chunk,) = expected.tensors, expected.chunks
    (part,) = chunk.parts
    many = 1 << 40
    lying = replace(
        expected,
        tensors=(replace(row, num_bytes=4 * many),),
        chunks=(
            replace(chunk, size_bytes=4 * many, parts=(replace(part, flat_end=many),)),
        ),
    )
    lying.check()

    with pytest.raises(ForeignModelError, match=r"`w` has 4,398,.* bytes, expected 32"):
        check_same_tensors(expected, lying)


def test_a_description_may_cut_the_model_otherwise_and_name_its_kinds():
    expected = pack({f"w{n}": torch.zeros(100) for n in range(20)})
    otherwise = pack(
        {f"w{n}": torch.zeros(100) for n in range(20)},
        buffers=[f"w{n}" for n in range(20)],
        split=TensorSplit(240),
    )

    found = read_layout(otherwise.layout.to_json(), expected.layout, "client `a`")

    assert found == otherwise.layout


def test_a_description_longer_than_the_model_needs_is_refused_unread():
    expected = pack({"w": torch.zeros(8)}).layout

    with pytest.raises(OverlongLayoutError, match="client `mallory` describes its"):
        read_layout("[" * 1_000_000, expected, "client `mallory`")


def test_the_same_model_has_the_same_digest():
    assert pack(model()).digest == pack(model()).digest
    assert pack(model()).digest != pack(model() | {"count": torch.tensor(4)}).digest


def test_tensors_that_are_not_finite_are_named():
    assert pack(model()).nonfinite == ("odd",)
