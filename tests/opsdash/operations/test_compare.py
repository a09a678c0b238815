"""Two checkpoints beside each other."""

import pytest
import torch

from agent.rundir.errors import UnreadableFileError
from agent.rundir.layout import MANIFEST_NAME, STATE_NAME, RunDir
from opsdash.operations.compare import (
    Measure,
    compare_checkpoints,
    plan_measure,
    read_measures,
)
from opsdash.operations.trainer_command import TrainerCommand
from tests.published import publish


@pytest.fixture
def run(tmp_path):
    run = RunDir(tmp_path / "run")
    old = {"model": {"a.w": torch.ones(4), "b": torch.zeros(2), "c": torch.ones(3)}}
    new = {"model": {"a.w": torch.ones(4), "b": torch.ones(2), "d": torch.ones(5)}}
    publish(run.checkpoints / "step-00000001", {**old, "x": torch.ones(2, 2)})
    publish(run.checkpoints / "step-00000002", {**new, "x": torch.ones(4)})
    return run


def test_each_tensor_is_same_changed_added_removed_or_reshaped(run):
    compared = compare_checkpoints(run, "step-00000001", "step-00000002")

    assert {change.name: change.state for change in compared.changes} == {
        "model.a.w": "same",
        "model.b": "changed",
        "model.d": "added",
        "model.c": "removed",
        "x": "reshaped",
    }
    assert compared.num("changed") == 1


def test_without_checksums_nothing_is_claimed(tmp_path):
    run = RunDir(tmp_path / "run")
    publish(run.checkpoints / "step-00000001", {"w": torch.ones(2)}, crc32=False)
    publish(run.checkpoints / "step-00000002", {"w": torch.ones(2)}, crc32=False)

    compared = compare_checkpoints(run, "step-00000001", "step-00000002")

    assert [change.state for change in compared.changes] == ["untold"]


def test_an_archive_that_cannot_be_opened_leaves_it_untold(run):
    (run.checkpoints / "step-00000002" / STATE_NAME).write_bytes(b"no zip")

    compared = compare_checkpoints(run, "step-00000001", "step-00000002")

    assert compared.num("untold") == 2


def test_a_checkpoint_without_manifest_is_an_error(run):
    (run.checkpoints / "step-00000002" / MANIFEST_NAME).unlink()

    with pytest.raises(UnreadableFileError):
        compare_checkpoints(run, "step-00000001", "step-00000002")


def test_distances_are_measured_by_the_trainers_command(run):
    command = TrainerCommand(plan_measure(run, "step-00000001", "step-00000002"))
    command.wait()

    measures = read_measures(command.results)

    assert command.error == ""
    assert measures["model.b"] == Measure(0.0, 2**0.5, 2**0.5)
    assert measures["model.a.w"].distance == 0
    assert "x" not in measures


def test_results_that_are_something_else_are_passed_over():
    results = ({"tensor": 7}, {"tensor": "w", "old_norm": "x", "distance": 1e999})

    assert read_measures(results) == {"w": Measure(None, None, None)}
