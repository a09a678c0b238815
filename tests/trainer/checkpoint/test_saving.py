"""Saving in the background, and what all ranks hear of it."""

import errno
import functools
import os
import threading

import pytest
import torch
from filelock import FileLock

from agent.rundir.checkpoints import Stage, list_checkpoints
from agent.rundir.events import CheckpointRefused, RunEnded
from agent.rundir.layout import RunDir
from tests.ranks import on_ranks
from tests.replaced import contents, other_run, replace
from tests.trainer.small import events, make, train
from trainer.checkpoint import publish as publish_module
from trainer.checkpoint import saving as saving_module
from trainer.checkpoint.checking import differences
from trainer.checkpoint.lock import publishing
from trainer.checkpoint.publish import Publisher
from trainer.loop.steps import DivergedError, Loop

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


def test_a_lock_that_another_process_holds_costs_a_checkpoint_and_not_the_run(
    tmp_path, monkeypatch
):
    real, seen = Publisher.publish, []

    def publish(self, name, state, facts):
        if seen:
            return real(self, name, state, facts)
        self.run.checkpoints.mkdir()
        seen.append(name)
        with FileLock(self.run.checkpoints / ".publish.lock"):
            return real(self, name, state, facts)

    monkeypatch.setattr(Publisher, "publish", publish)
    short = functools.partial(publishing, wait_s=0.05)
    monkeypatch.setattr(publish_module, "publishing", short)

    result = make(tmp_path / "run", max_epochs=1, save_every=2).train()

    assert result.step == 6
    [refused] = events(tmp_path / "run", CheckpointRefused)
    assert refused.checkpoint == "step-00000002"
    assert "is being written by another process" in refused.reason
    assert set(states(tmp_path / "run")) == {"step-00000004", "step-00000006"}


def test_what_retention_cannot_remove_stays_and_ends_nothing(
    tmp_path, monkeypatch, capsys
):
    def fail(*_):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(saving_module, "prune", fail)

    make(tmp_path / "run", max_epochs=1, save_every=2, keep=1).train()

    assert len(states(tmp_path / "run")) == 3
    assert "older checkpoints stay for now: [Errno 30]" in capsys.readouterr().out


def test_keeping_fewer_makes_room_on_a_disk_that_is_full(tmp_path, monkeypatch):
    settings = {"max_epochs": 2, "save_every": 1}
    make(tmp_path / "run", **settings, keep=9, steps=4).train()
    real = os.statvfs

    def statvfs(path):
        found = real(path)
        num_there = len(list(RunDir(tmp_path / "run").checkpoints.glob("step-*")))
        free = found.f_bavail if num_there < 4 else 0
        return os.statvfs_result((*found[:4], free, *found[5:]))

    monkeypatch.setattr(publish_module.os, "statvfs", statvfs)

    make(tmp_path / "run", **settings, keep=2, new_attempt=True).train()

    refused = events(tmp_path / "run", CheckpointRefused, attempt=2)
    assert [e.checkpoint for e in refused] == ["step-00000005"]
    assert set(states(tmp_path / "run")) == {"step-00000011", "step-00000012"}


def test_a_save_in_the_background_ends_before_the_run_is_given_up(
    tmp_path, monkeypatch
):
    """The save is slow, and training fails meanwhile."""
    real, failed = publish_module.write_state, threading.Event()
    look = Loop._look_around

    def write_state(path, state):
        assert failed.wait(60)
        assert RunDir(tmp_path / "run").lock.exists()
        return real(path, state)

    def look_around(self, result):
        if self.saver.is_saving:
            threading.Timer(0.2, failed.set).start()
            raise DivergedError("of no use any more")
        look(self, result)

    monkeypatch.setattr(publish_module, "write_state", write_state)
    monkeypatch.setattr(Loop, "_look_around", look_around)

    with pytest.raises(DivergedError):
        make(tmp_path / "run", **SETTINGS).train()

    assert set(states(tmp_path / "run")) == {"step-00000002"}
    assert not RunDir(tmp_path / "run").lock.exists()


def test_a_broken_disk_in_the_background_ends_all_ranks_alike(tmp_path):
    ended = on_ranks(
        2, train_on_a_disk_that_fails, tmp_path / "run", errno.EIO, 9, joins=False
    )

    assert [(end.kind, end.error) for end in ended] == [
        ("RankFailedError", "rank 0 failed: OSError: [Errno 5] Input/output error")
    ] * 2


def train_until_replaced(run_dir, other, settings):
    """Let another run take the directory's place before anything is saved."""
    trainer = make(run_dir, **settings)
    plain, calls = trainer.loss_function, []

    def loss_function(model, batch):
        calls.append(batch)
        if len(calls) == 3 and os.environ.get("RANK", "0") == "0":
            replace(run_dir, other)
        return plain(model, batch)

    trainer.loss_function = loss_function
    trainer.train()


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("num_ranks", [1, 2])
def test_a_run_whose_directory_is_another_runs_by_now_ends_and_touches_nothing(
    tmp_path, is_async, num_ranks
):
    run_dir, other = tmp_path / "run", other_run(tmp_path / "other", "ddp")
    before = contents(other)
    settings = SETTINGS | {"async_save": is_async, "profile_at": 1, "profile_steps": 3}

    ended = on_ranks(
        num_ranks, train_until_replaced, run_dir, other, settings, joins=False
    )

    told = f"another run lies in `{run_dir}` by now"
    assert [(end.kind, end.error) for end in ended] == [("LockedError", told)] * (
        num_ranks
    )
    assert contents(run_dir) == before
    assert events(tmp_path / "run-moved", RunEnded)[0].error == f"LockedError: {told}"
