"""Saving in the background, and what all ranks hear of it."""

import errno
import os

import pytest
import torch

from agent.rundir.checkpoints import Stage, list_checkpoints
from agent.rundir.events import CheckpointRefused
from agent.rundir.layout import RunDir
from tests.ranks import on_ranks
from tests.trainer.small import events, make, train
from trainer.checkpoint import publish as publish_module
from trainer.checkpoint.checking import differences

pytestmark = pytest.mark.dist
SETTINGS = {"max_epochs": 4, "save_every": 2, "keep": 20, "async_save": True}


def states(run_dir):
    return {
        entry.name: torch.load(entry.path / "state.pt", weights_only=True)
        for entry in list_checkpoints(RunDir(run_dir))
    }


def test_what_is_saved_in_the_background_is_what_is_saved_while_waiting(tmp_path):
    waiting = SETTINGS | {"async_save": False}

    ended = on_ranks(2, train, str(tmp_path / "one"), SETTINGS, joins=False)
    on_ranks(2, train, str(tmp_path / "other"), waiting, joins=False)

    assert [end.error for end in ended] == [None, None]
    assert differences(states(tmp_path / "one"), states(tmp_path / "other")) == []
    found = list_checkpoints(RunDir(tmp_path / "one"))
    assert {entry.stage for entry in found} == {Stage.VERIFIED}
    assert len(found) == 6


def train_on_a_disk_that_fails(run_dir, number, num_times):
    """Let rank 0's first writes fail as the system would."""
    real, failures = publish_module.write_state, []

    def write_state(path, state):
        if len(failures) < num_times:
            failures.append(path)
            raise OSError(number, os.strerror(number))
        return real(path, state)

    publish_module.write_state = write_state
    return make(run_dir, **SETTINGS).train()


def test_a_full_disk_in_the_background_is_told_and_training_goes_on(tmp_path):
    ended = on_ranks(
        2, train_on_a_disk_that_fails, tmp_path / "run", errno.ENOSPC, 1, joins=False
    )

    assert [end.error for end in ended] == [None, None]
    assert {end.value.step for end in ended} == {12}
    refused = events(tmp_path / "run", CheckpointRefused)
    assert [e.checkpoint for e in refused] == ["step-00000002"]
    assert "step-00000002" not in states(tmp_path / "run")


def test_a_broken_disk_in_the_background_ends_all_ranks_alike(tmp_path):
    ended = on_ranks(
        2, train_on_a_disk_that_fails, tmp_path / "run", errno.EIO, 9, joins=False
    )

    assert [(end.kind, end.error) for end in ended] == [
        ("RankFailedError", "rank 0 failed: OSError: [Errno 5] Input/output error")
    ] * 2
