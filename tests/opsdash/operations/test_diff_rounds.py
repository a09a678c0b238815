"""Two rounds of a store side by side, without reading a byte of them."""

import pytest
import torch

from opsdash.operations.chunk_scan import ChunkScan
from opsdash.operations.diff_rounds import CutDifferentlyError, diff_rounds
from trainer.chunks.split import FlatSplit
from trainer.chunks.store import ChunkStore


def store_of(tmp_path, *rounds, split=None):
    path = tmp_path / "chunks" / "server" / "server_chunks.db"
    path.parent.mkdir(parents=True)
    with ChunkStore(path, node="server") as store:
        for number, tensors in enumerate(rounds, start=1):
            store.put_round(number, tensors, split=split)
    return path


def test_only_tensors_whose_chunks_differ_are_changed(tmp_path):
    path = store_of(
        tmp_path,
        {"a": torch.zeros(8), "b": torch.ones(4)},
        {"a": torch.ones(8), "b": torch.ones(4)},
    )

    diff = diff_rounds(path, 1, 2)

    assert {one.name: one.state for one in diff.tensors} == {
        "a": "changed",
        "b": "same",
    }
    assert (diff.num_chunks, diff.num_changed, diff.changed_bytes) == (2, 1, 32)


def test_a_part_of_a_tensor_may_change_alone(tmp_path):
    old, new = torch.zeros(100), torch.zeros(100)
    new[:10] = 1
    path = store_of(tmp_path, {"w": old}, {"w": new}, split=FlatSplit(10))

    diff = diff_rounds(path, 1, 2)

    (tensor,) = diff.tensors
    assert (tensor.num_changed, tensor.num_chunks) == (1, 10)


def test_rounds_with_other_tensors_are_not_compared_chunk_by_chunk(tmp_path):
    path = store_of(tmp_path, {"a": torch.zeros(8)}, {"b": torch.zeros(8)})

    with pytest.raises(CutDifferentlyError):
        diff_rounds(path, 1, 2)


def test_a_scan_yields_every_chunk_once_then_ends(tmp_path):
    path = store_of(tmp_path, {"w": torch.arange(2_500.0)}, split=FlatSplit(2_500))
    scan = ChunkScan(path, 1)

    seen = []
    while (batch := scan.take()) is not None:
        seen += batch

    assert [chunk.chunk_id for chunk in seen] == list(range(2_500))
    assert {chunk.names for chunk in seen} == {"w"}
    assert scan.take() is None
    assert scan.error is None


def test_a_scan_of_a_round_that_is_not_there_says_so(tmp_path):
    path = store_of(tmp_path, {"w": torch.ones(2)})
    scan = ChunkScan(path, 9)

    while scan.take() is not None:
        pass

    assert "does not hold round 9" in str(scan.error)
