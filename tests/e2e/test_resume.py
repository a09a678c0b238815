"""Resuming from further back, second starts, stops that were asked for."""

import os
import signal

import pytest

from agent.rundir.checkpoints import Stage, list_checkpoints, read_latest
from agent.rundir.events import (
    CheckpointRefused,
    CheckpointSuperseded,
    RunEnded,
)
from agent.rundir.layout import RunDir
from tests.processes import events, joined_losses

pytestmark = [pytest.mark.dist, pytest.mark.slow]

# An epoch of 19 steps on two ranks, with a smaller last one.
FLAGS = ("--steps", "40", "--save-every", "8", "--corpus-bytes", "7600")


def test_a_flipped_byte_makes_the_resume_take_the_older_one(launch, start, tmp_path):
    run_dir = tmp_path / "run"
    assert launch(run_dir, 2, *FLAGS, "--keep", "9").wait() == 0
    newest, older = list_checkpoints(RunDir(run_dir))[:2]
    flip_a_byte(newest.path / "state.pt")

    resumed = start(run_dir, "resume", str(run_dir))

    assert resumed.wait() == 0, resumed.text()
    assert f"`{newest.name}` is passed over" in resumed.text()
    assert f"resumed from `{older.name}`" in resumed.text()
    assert f"`{newest.name}` is superseded" in resumed.text()
    told = [e for attempt, e in events(run_dir) if attempt == 2]
    assert [e.checkpoint for e in told if isinstance(e, CheckpointRefused)] == [
        newest.name
    ]
    assert [e.checkpoint for e in told if isinstance(e, CheckpointSuperseded)] == [
        newest.name
    ]
    assert read_latest(RunDir(run_dir)) == newest.name
    stages = {e.path.name: e.stage for e in list_checkpoints(RunDir(run_dir))}
    assert stages[f".superseded-0002-{newest.name}"] is Stage.SUPERSEDED
    assert stages[newest.name] is Stage.VERIFIED


def test_a_second_start_on_a_live_run_is_refused(launch, tmp_path):
    run_dir = tmp_path / "run"
    first = launch(run_dir, 2, "--steps", "100000", "--save-every", "0")
    first.wait_for_step(1)
    before = sorted(p.name for p in run_dir.iterdir())

    second = launch(run_dir, 2, "--steps", "100000", "--save-every", "0")

    assert second.wait() == 73
    holder = first.rank_pid(0)
    assert f"`{run_dir}` is in use by process {holder}" in second.text()
    assert second.text().count("error:") == 1
    assert "hint: opsdash attach" in second.text()
    assert sorted(p.name for p in run_dir.iterdir()) == before


@pytest.mark.parametrize("to_one_rank", [False, True])
def test_asked_to_stop_all_ranks_save_the_same_step(launch, tmp_path, to_one_rank):
    run_dir = tmp_path / "run"
    running = launch(run_dir, 3, "--steps", "100000", "--save-every", "0")
    running.wait_for_step(3)
    pid = running.rank_pid(2) if to_one_rank else running.process.pid

    os.kill(pid, signal.SIGTERM)

    assert running.wait() == 143, running.text()
    last = [max(joined_losses(run_dir, rank)) for rank in range(3)]
    ends = [
        [e.reason for _, e in events(run_dir, rank) if isinstance(e, RunEnded)]
        for rank in range(3)
    ]
    assert last == [last[0]] * 3
    assert ends == [["stopped"]] * 3
    [saved] = list_checkpoints(RunDir(run_dir))
    assert (saved.stage, saved.number) == (Stage.VERIFIED, last[0])
    assert saved.manifest.reason == "signal"


def flip_a_byte(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
