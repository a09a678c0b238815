"""Whatever happens to a save, all ranks end alike, and no checkpoint is half."""

import os
import random
import shutil
import signal
import subprocess
import threading
import time

import pytest

from agent.rundir.checkpoints import (
    Stage,
    list_checkpoints,
    newest_resumable,
)
from agent.rundir.events import CheckpointRefused, CheckpointVerified, DiskLow
from agent.rundir.layout import RunDir
from agent.rundir.verify.path import verify_path
from agent.rundir.verify.verdict import Level, State
from agent.session import Agent
from tests.processes import joined_losses
from tests.ranks import on_ranks, started
from tests.trainer.checkpoint.states import Told, facts, make_run, make_state, payload
from tests.trainer.small import make
from trainer.checkpoint import publish as publish_module
from trainer.checkpoint.publish import Publisher
from trainer.checkpoint.saving import SAVE_BARRIER

pytestmark = [pytest.mark.dist, pytest.mark.slow]

RANK = "RANK"
ENDLESS = {"max_epochs": 10_000, "save_every": 1, "eval_every": 100_000}


def test_a_disk_that_fills_up_in_the_middle_of_a_file_keeps_what_was_there(small_disk):
    run = make_run(small_disk / "run")
    state = make_state(width=60_000)
    saved = payload(state)
    told = Told()
    publisher = Publisher(run, told, last_bytes=1)

    outcome = publisher.publish("step-00000003", saved, facts(state, saved))

    assert outcome.refusal == "no room: no space left on device"
    assert [p.name for p in run.checkpoints.iterdir() if p.is_dir()] == []
    assert told.kinds == ["CheckpointSaving", "CheckpointRefused", "DiskLow"]


def test_training_goes_on_through_a_full_disk_and_saves_when_there_is_room(
    launch, small_disk
):
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"x" * 3_600_000)
    run_dir = small_disk / "run"
    running = launch(
        run_dir, 2, "--steps", "100000", "--save-every", "2", "--keep", "1"
    )
    running.wait_for(lambda e: isinstance(e, CheckpointRefused))
    running.wait_for(lambda e: isinstance(e, DiskLow))

    ballast.unlink()

    running.wait_for(lambda e: isinstance(e, CheckpointVerified))
    os.kill(running.process.pid, signal.SIGTERM)
    assert running.wait() == 143, running.text()
    assert "NOT saved" in running.text()
    assert "bytes are free, a checkpoint takes about" in running.text()
    last = max(joined_losses(run_dir))
    assert newest_resumable(RunDir(run_dir)).number == last


def train_on(run_dir, settings):
    return make(run_dir, **settings).train().step


def test_when_all_checkpoints_are_damaged_all_ranks_refuse_alike(tmp_path):
    settings = {"max_epochs": 2, "save_every": 3}
    on_ranks(2, train_on, tmp_path / "run", settings, joins=False)
    for entry in list_checkpoints(RunDir(tmp_path / "run")):
        os.truncate(entry.path / "state.pt", 100)

    ended = on_ranks(3, train_on, tmp_path / "run", settings, joins=False)

    assert [(end.kind, end.exit_code) for end in ended] == [
        ("NoCheckpointError", 66)
    ] * 3
    assert "has no checkpoint to resume from" in ended[2].error
    assert {end.error for end in ended} == {ended[0].error}


def train_with_another_view(run_dir, lag_s):
    """Let rank 1 look at the run through a file system that lags."""
    settings = {"max_epochs": 3, "view_limit_s": 2.0, "new_attempt": True}
    if os.environ[RANK] != "1":
        return train_on(run_dir, settings)
    view = run_dir.with_name("view")
    hidden = view / "hidden"
    shutil.copytree(run_dir / "checkpoints", hidden)
    if lag_s is not None:
        appear = threading.Timer(lag_s, hidden.rename, [view / "checkpoints"])
        appear.start()
    return train_on(view, settings)


@pytest.mark.parametrize("lag_s", [0.5, None])
def test_a_rank_whose_view_lags_is_waited_for_and_then_ends_all_alike(tmp_path, lag_s):
    on_ranks(2, train_on, tmp_path / "run", {"max_epochs": 2}, joins=False)

    ended = on_ranks(2, train_with_another_view, tmp_path / "run", lag_s, joins=False)

    if lag_s is not None:
        assert [end.value for end in ended] == [9, 9], ended
        return
    assert [end.kind for end in ended] == ["UnreadableFileError"] * 2
    assert "manifest.json` cannot be read" in ended[0].error
    assert ended[0].error == ended[1].error


def train_with_a_fault(run_dir, rank, fault, limit_s):
    """Let one rank be hit when it arrives at the barrier around a save."""
    real = Agent.barrier

    def barrier(self, name, **options):
        if name == SAVE_BARRIER and os.environ[RANK] == str(rank):
            fault(run_dir / "given-up")
        return real(self, name, **options)

    Agent.barrier = barrier
    try:
        return train_on(run_dir, {"save_every": 2, "save_limit_s": limit_s})
    finally:
        (run_dir / "given-up").touch()


def be_killed(_):
    os.kill(os.getpid(), signal.SIGKILL)


def be_stopped_until(path):
    """Stop this very process, until another rank has given up."""
    wait = f"while [ ! -e {path} ]; do sleep 0.05; done; kill -CONT {os.getpid()}"
    subprocess.Popen(["/bin/sh", "-c", wait])
    os.kill(os.getpid(), signal.SIGSTOP)


@pytest.mark.parametrize("rank", [0, 2])
def test_a_rank_that_is_killed_in_the_barrier_around_a_save_is_named(tmp_path, rank):
    ended = on_ranks(
        3, train_with_a_fault, tmp_path / "run", rank, be_killed, 60.0, joins=False
    )

    others = [end for index, end in enumerate(ended) if index != rank]
    assert ended[rank].is_killed
    assert [end.kind for end in others] == ["RankMissingError"] * 2
    assert f"`checkpoint.save`: rank {rank} (process " in others[0].error
    assert others[0].error == others[1].error


def test_a_rank_that_is_stopped_in_the_barrier_is_named_and_does_not_go_on_alone(
    tmp_path,
):
    ended = on_ranks(
        3, train_with_a_fault, tmp_path / "run", 1, be_stopped_until, 3.0, joins=False
    )

    told = "`checkpoint.save`: rank 1 did not arrive within 3 s"
    assert [(end.kind, end.error) for end in ended] == [("RankMissingError", told)] * 3


def train_with_a_slow_disk(run_dir):
    real = publish_module.write_state

    def write_state(path, state):
        time.sleep(2.5)
        return real(path, state)

    publish_module.write_state = write_state
    return train_on(run_dir, {"max_epochs": 1, "control_timeout_s": 1.0})


def test_a_save_that_takes_longer_than_the_verdict_s_time_out_is_no_error(tmp_path):
    ended = on_ranks(2, train_with_a_slow_disk, tmp_path / "run", joins=False)

    assert [end.value for end in ended] == [3, 3], ended


def kill_while_saving(run_dir, num_ranks, generator):
    """Train until some saves are done, then kill all at a random moment."""
    run = RunDir(run_dir)
    before = (
        len(list(run.checkpoints.glob("step-*"))) if run.checkpoints.exists() else 0
    )
    newest = list_checkpoints(run)[0].number if before else 0
    with started(num_ranks, train_on, run_dir, ENDLESS, joins=False) as ranks:
        deadline = time.monotonic() + 60
        while True:
            found = [
                e.number for e in list_checkpoints(run) if e.stage is Stage.VERIFIED
            ]
            if found and max(found) >= newest + 2:
                break
            assert time.monotonic() < deadline, "no checkpoint was saved"
            assert all(p.is_alive() for p in ranks.processes)
        time.sleep(generator.uniform(0, 0.03))
        ranks.kill(signal.SIGKILL)
    return max(found)


def survive_kills(tmp_path, num_kills, seed):
    generator = random.Random(seed)
    run = RunDir(tmp_path / "run")
    for number in range(num_kills):
        reached = kill_while_saving(run.path, 2 + number % 2, generator)

        published = [p for p in run.checkpoints.iterdir() if p.name.startswith("step-")]
        for path in published:
            verdict = verify_path(path, Level.CONTENT)
            assert verdict.state is State.SOUND, (path.name, verdict)
        assert newest_resumable(run).number >= reached
        stages = {e.path.name: e.stage for e in list_checkpoints(run)}
        partial = [n for n in stages if n.startswith(".partial-")]
        assert all(stages[name] is Stage.WRITING for name in partial)


def test_killed_at_random_moments_while_saving_nothing_published_is_ever_half(tmp_path):
    survive_kills(tmp_path, 5, seed=1)


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_killed_a_hundred_times_while_saving_nothing_is_ever_half(tmp_path):
    survive_kills(tmp_path, 100, seed=2)
