import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.rundir.chunks.records import TensorRow
from trainer.chunks.split import FlatSplit, TensorSplit


def rows(sizes, item_bytes=4):
    return [
        TensorRow(f"t{i}", "parameter", "float32", (n,), item_bytes, n * item_bytes)
        for i, n in enumerate(sizes)
    ]


sizes = st.lists(st.integers(0, 50), max_size=8)
splits = st.one_of(
    st.integers(16, 99).map(TensorSplit), st.integers(1, 30).map(FlatSplit)
)


@given(sizes, splits)
def test_every_element_is_in_exactly_one_chunk_in_order(sizes, split):
    parts = itertools.chain(*split.cut(rows(sizes)))

    elements = [
        (part.name, i) for part in parts for i in range(part.flat_start, part.flat_end)
    ]

    assert elements == [(f"t{i}", j) for i, n in enumerate(sizes) for j in range(n)]


@given(sizes, st.integers(16, 99))
def test_tensor_chunks_have_one_tensor_and_the_size_asked_for(sizes, chunk_bytes):
    chunks = TensorSplit(chunk_bytes).cut(rows(sizes))

    assert all(len(parts) == 1 for parts in chunks)
    assert all(
        (part.flat_end - part.flat_start) * 4 <= chunk_bytes for (part,) in chunks
    )


@given(sizes, st.integers(1, 30))
def test_flat_chunks_are_as_many_as_asked_for_and_even(sizes, chunk_num):
    chunks = FlatSplit(chunk_num).cut(rows(sizes))
    lengths = [sum(p.flat_end - p.flat_start for p in parts) for parts in chunks]

    assert len(chunks) == chunk_num
    assert max(lengths) - min(lengths) <= 1


def test_eleven_elements_in_ten_chunks():
    chunks = FlatSplit(10).cut(rows([10, 1]))

    lengths = [sum(p.flat_end - p.flat_start for p in parts) for parts in chunks]

    assert lengths == [1] * 9 + [2]


def test_most_chunks_of_a_tiny_model_are_empty():
    chunks = FlatSplit(10).cut(rows([2]))

    assert sum(not parts for parts in chunks) == 8


def test_a_change_in_one_tensor_leaves_the_chunks_of_others():
    before = TensorSplit(64).cut(rows([100, 40]))
    after = TensorSplit(64).cut(rows([90, 40]))

    assert [p for p in after if p[0].name == "t1"] == [
        p for p in before if p[0].name == "t1"
    ]


@pytest.mark.parametrize("chunk_bytes", [0, 15, 10**9 + 1])
def test_chunk_sizes_that_cannot_be_are_refused(chunk_bytes):
    with pytest.raises(ValueError, match="chunk_bytes"):
        TensorSplit(chunk_bytes)


def test_a_split_into_nothing_is_refused():
    with pytest.raises(ValueError, match="chunk_num"):
        FlatSplit(0)
