"""`trainer compare`: how far two checkpoints are apart, tensor by tensor."""

import json
import math

import pytest
import torch

from agent.rundir.errors import UnreadableFileError
from agent.rundir.layout import STATE_NAME
from tests.published import publish
from trainer.checkpoint.compare import compare, main


def distances(tmp_path, old, new):
    pairs = compare(publish(tmp_path / "old", old), publish(tmp_path / "new", new))
    return {found.tensor: found for found, _ in pairs}


def test_norms_and_distances_are_euclidean(tmp_path):
    found = distances(
        tmp_path,
        {"a": torch.tensor([3.0, 4.0]), "b": torch.tensor([1 + 1j])},
        {"a": torch.tensor([3.0, 0.0]), "b": torch.tensor([1 - 1j])},
    )

    a, b = found["a"], found["b"]
    assert (a.old_norm, a.new_norm, a.distance) == (5.0, 3.0, 4.0)
    assert b.distance == 2.0
    assert b.old_norm == pytest.approx(math.sqrt(2))


def test_half_precision_is_summed_without_overflow(tmp_path):
    big = torch.full((10_000,), 60_000.0, dtype=torch.float16)

    found = distances(tmp_path, {"w": big}, {"w": -big})

    norm = float(big[0]) * 100
    assert found["w"].old_norm == pytest.approx(norm)
    assert found["w"].distance == pytest.approx(2 * norm)


def test_what_is_not_finite_has_no_norm(tmp_path):
    sick = torch.tensor([1.0, float("nan")])

    found = distances(tmp_path, {"w": torch.ones(2)}, {"w": sick})

    assert (found["w"].new_norm, found["w"].distance) == (None, None)
    assert found["w"].old_norm is not None


def test_only_what_both_hold_in_one_shape_is_measured(tmp_path):
    found = distances(
        tmp_path,
        {"model": {"a.w": torch.ones(2)}, "list": [torch.ones(1)], "x": torch.ones(2)},
        {"model": {"a.w": torch.ones(2)}, "list": [torch.ones(1)], "x": torch.ones(3)},
    )

    assert sorted(found) == ["list.0", "model.a.w"]


def test_the_command_prints_an_object_per_tensor(tmp_path, capsys):
    old = publish(tmp_path / "old", {"w": torch.ones(1), "empty": torch.ones(0)})
    new = publish(tmp_path / "new", {"w": torch.zeros(1), "empty": torch.ones(0)})

    code = main([str(old), str(new)])

    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    told = {line["tensor"]: line["distance"] for line in lines if "tensor" in line}
    assert code == 0
    assert told == {"w": 1.0, "empty": 0.0}


def test_a_state_that_cannot_be_loaded_is_said_with_what_helps(tmp_path):
    old = publish(tmp_path / "old", {"w": torch.ones(1)})
    (old / STATE_NAME).write_bytes(b"not a checkpoint")

    with pytest.raises(UnreadableFileError) as caught:
        list(compare(old, old))

    assert caught.value.hint == f"opsdash verify {old}"
