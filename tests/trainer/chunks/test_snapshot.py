import pytest
import torch
from torch import nn

from trainer.chunks.snapshot import model_tensors, take_snapshot


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(5, 4)
        self.norm = nn.BatchNorm1d(4)
        self.head = nn.Linear(4, 5, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("mask", torch.ones(4, 4), persistent=False)


def test_all_tensors_of_a_model_are_found_and_told_apart():
    found = model_tensors(Model())

    assert list(found.tensors) == [
        "embed.weight",
        "norm.weight",
        "norm.bias",
        "head.weight",
        "mask",
        "norm.running_mean",
        "norm.running_var",
        "norm.num_batches_tracked",
    ]
    assert found.transient == {"mask"}
    assert found.buffers == {
        "norm.running_mean",
        "norm.running_var",
        "norm.num_batches_tracked",
        "mask",
    }


def test_tied_tensors_point_at_the_first():
    found = model_tensors(Model())

    snapshot = take_snapshot(found.tensors, buffers=found.buffers)

    aliases = {row.name: row.alias_of for row in snapshot.rows if row.alias_of}
    assert aliases == {"head.weight": "embed.weight"}
    assert "head.weight" not in snapshot.views


def test_overlapping_views_are_not_taken_for_tied():
    weight = torch.randn(4, 4)

    snapshot = take_snapshot({"all": weight, "half": weight[:2], "turned": weight.t()})

    assert [row.alias_of for row in snapshot.rows] == [None, None, None]


def test_empty_tensors_are_not_taken_for_tied():
    empty = torch.empty(0)

    snapshot = take_snapshot({"a": empty, "b": empty})

    assert [row.alias_of for row in snapshot.rows] == [None, None]


def test_contiguous_memory_is_not_copied():
    weight = torch.zeros(4)

    snapshot = take_snapshot({"w": weight})
    weight[0] = 1

    assert bytes(snapshot.views["w"][:4]) == b"\x00\x00\x80?"


def test_a_name_of_the_optimizers_is_refused():
    with pytest.raises(ValueError, match="reserved"):
        take_snapshot({"optimizer:w": torch.zeros(1)})
