import hashlib
import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.rundir.chunks.layout import BadLayoutError, RoundLayout
from agent.rundir.chunks.records import (
    ChunkSpec,
    Part,
    TensorRow,
    chunk_digest,
    decode_parts,
    encode_parts,
)

DIGEST = "0" * 64


def weight_part(start, end):
    return Part("w", "float32", (6,), start, end)


def layout():
    """Two tensors, one of them tied, in two chunks."""
    return RoundLayout(
        split="tensor:16",
        tensors=(
            TensorRow("w", "parameter", "float32", (6,), 4, 24),
            TensorRow("tied", "parameter", "float32", (6,), 4, 24, alias_of="w"),
            TensorRow("empty", "buffer", "float32", (0,), 4, 0),
        ),
        chunks=(
            ChunkSpec(0, DIGEST, "float32", 16, (weight_part(0, 4),)),
            ChunkSpec(1, DIGEST, "float32", 8, (weight_part(4, 6),)),
        ),
    )


def test_a_layout_comes_back_from_its_text():
    assert RoundLayout.from_json(layout().to_json()) == layout()


def test_a_chunk_digest_is_sha256_over_dtype_zero_and_bytes():
    expected = hashlib.sha256(b"int8\x00abcd").hexdigest()

    assert chunk_digest("int8", [b"ab", memoryview(b"cd")]) == expected


def test_the_digest_of_a_layout_depends_on_everything_in_it():
    digests = {
        layout().digest(),
        replace(layout(), split="flat:2").digest(),
        replace(layout(), optimizer="{}").digest(),
        replace(layout(), tensors=layout().tensors[::-1]).digest(),
        replace(layout(), chunks=layout().chunks[:1]).digest(),
    }

    assert len(digests) == 5


def with_tensor(index, **changes):
    tensors = list(layout().tensors)
    tensors[index] = replace(tensors[index], **changes)
    return replace(layout(), tensors=tuple(tensors))


def with_chunk(index, **changes):
    chunks = list(layout().chunks)
    chunks[index] = replace(chunks[index], **changes)
    return replace(layout(), chunks=tuple(chunks))


@pytest.mark.parametrize(
    "damaged",
    [
        replace(layout(), chunks=layout().chunks[:1]),
        replace(layout(), chunks=layout().chunks[1:]),
        replace(layout(), chunks=layout().chunks[::-1]),
        replace(layout(), tensors=layout().tensors[1:]),
        replace(layout(), tensors=layout().tensors * 2),
        with_tensor(0, shape=(7,)),
        with_tensor(0, dtype="int32"),
        with_tensor(0, num_bytes=28),
        with_tensor(0, item_bytes=0),
        with_tensor(0, item_bytes=5),
        with_tensor(1, alias_of="gone"),
        with_tensor(1, alias_of="tied"),
        with_tensor(1, shape=(3, 2)),
        with_tensor(1, alias_of=None),
        with_chunk(0, size_bytes=12),
        with_chunk(0, dtype="mixed"),
        with_chunk(0, chunk_id=5),
        with_chunk(1, parts=(weight_part(3, 5),)),
        with_chunk(1, parts=(weight_part(4, 4), weight_part(4, 6))),
        with_chunk(1, parts=(weight_part(5, 6), weight_part(4, 5))),
    ],
)
def test_a_layout_that_does_not_cover_its_tensors_once_is_refused(damaged):
    with pytest.raises(BadLayoutError):
        RoundLayout.from_json(damaged.to_json())


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        "null",
        "[" * 5000,
        json.dumps({"split": 1, "tensors": [], "chunks": [], "optimizer": None}),
        json.dumps(
            {"split": "", "tensors": [[1] * 8], "chunks": [], "optimizer": None}
        ),
        json.dumps({"split": "", "tensors": [], "chunks": [[0]], "optimizer": None}),
    ],
)
def test_text_that_is_no_layout_is_refused(text):
    with pytest.raises(BadLayoutError):
        RoundLayout.from_json(text)


@given(st.data())
def test_no_damaged_text_raises_anything_else(data):
    text = layout().to_json()
    at = data.draw(st.integers(0, len(text) - 1))
    damaged = text[:at] + data.draw(st.text(max_size=2)) + text[at + 1 :]

    try:
        loaded = RoundLayout.from_json(damaged)
    except BadLayoutError:
        return

    loaded.check()


parts = st.lists(
    st.builds(
        Part,
        st.text(),
        st.text(min_size=1),
        st.lists(st.integers(0, 99), max_size=3).map(tuple),
        st.integers(0, 99),
        st.integers(0, 99),
    ),
    max_size=4,
    unique_by=lambda part: part.name,
)


@given(parts)
def test_parts_come_back_in_order(parts):
    assert decode_parts(encode_parts(parts)) == tuple(parts)


def test_the_originals_parts_have_no_dtype():
    (part,) = decode_parts('{"fc.weight": [[0, 5, [1, 10]]]}')

    assert part == Part("fc.weight", "", (1, 10), 0, 5)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"a": 1}',
        '{"a": [[1]]}',
        '{"a": [[-1, 2, []]]}',
        '{"a": [[0, 1, 2]]}',
    ],
)
def test_damaged_parts_are_a_value_or_type_error(text):
    with pytest.raises((ValueError, TypeError)):
        decode_parts(text)
