"""What the engineer on call does: status, verify, resume, with real trainers."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from agent.rundir.checkpoints import (
    Stage,
    list_checkpoints,
    read_latest,
    resumable,
)
from agent.rundir.events import (
    CheckpointLoaded,
    CheckpointSuperseded,
    RunEnded,
    decode_lines,
)
from agent.rundir.layout import RunDir
from agent.rundir.tail import Tail
from tests.processes import DEADLINE_S, ROOT, events, joined_losses
from trainer.checkpoint.checking import differences

pytestmark = [pytest.mark.dist, pytest.mark.slow]

FLAGS = ("--steps", "60", "--save-every", "8", "--corpus-bytes", "7600")


def opsdash(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "opsdash", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        stdin=subprocess.DEVNULL,
    )


def killed_run(launch, run_dir: Path, num_ranks: int) -> None:
    running = launch(run_dir, num_ranks, *FLAGS)
    running.wait_for_step(29)
    running.kill()


def wait_for_end(run_dir: Path, attempt: int) -> None:
    """Wait for a run that was started detached: only its telemetry tells."""
    tail = Tail(RunDir(run_dir).telemetry_file(attempt, "rank-00000"))
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        if any(isinstance(event, RunEnded) for event in decode_lines(tail.read())):
            return
        time.sleep(0.02)
    raise AssertionError(f"attempt {attempt} of {run_dir} did not end")


@pytest.mark.parametrize("num_ranks", [2, 3])
def test_dead_is_seen_and_one_command_brings_it_back_bit_for_bit(
    launch, start, tmp_path, num_ranks
):
    whole, parted = tmp_path / "whole", tmp_path / "parted"
    assert launch(whole, num_ranks, *FLAGS).wait() == 0
    killed_run(launch, parted, num_ranks)
    newest = resumable(list_checkpoints(RunDir(parted)))[0].name

    status = opsdash("status", parted, "--json")
    resumed = opsdash("resume", parted)
    wait_for_end(parted, attempt=2)

    said = json.loads(status.stdout)
    assert status.returncode == 2
    assert said["state"] == "dead"
    assert said["last_verified"]["name"] == newest
    assert resumed.returncode == 0, resumed.stderr
    assert newest in resumed.stdout
    for rank in range(num_ranks):
        assert joined_losses(parted, rank) == joined_losses(whole, rank)
    assert final_differences(whole, parted) == []
    assert opsdash("status", parted).returncode == 0


def test_a_flipped_byte_is_named_and_the_resume_goes_further_back(launch, tmp_path):
    run_dir = tmp_path / "run"
    killed_run(launch, run_dir, 2)
    # A kill may leave one that is half written above the newest verified one.
    newest, older = resumable(list_checkpoints(RunDir(run_dir)))[:2]
    state = newest.path / "state.pt"
    data = bytearray(state.read_bytes())
    data[len(data) // 2] ^= 1
    state.write_bytes(data)

    verified = opsdash("verify", run_dir, "--json")
    resumed = opsdash("resume", run_dir)
    wait_for_end(run_dir, attempt=2)

    assert verified.returncode == 2
    verdicts = json.loads(verified.stdout)["verdicts"]
    [damaged] = [v for v in verdicts if v["state"] != "sound"]
    assert damaged["path"].endswith(newest.name)
    finding = damaged["findings"][0]
    assert finding["record"].startswith("data/")
    assert finding["tensor"]
    assert finding["offset"] <= len(data) // 2
    assert resumed.returncode == 0, resumed.stderr
    assert f"{newest.name} is passed over" in resumed.stdout
    second = [e for attempt, e in events(run_dir) if attempt == 2]
    told = {
        kind: [e.checkpoint for e in second if isinstance(e, kind)]
        for kind in (CheckpointLoaded, CheckpointSuperseded)
    }
    assert told[CheckpointLoaded] == [older.name]
    assert newest.name in told[CheckpointSuperseded]
    assert read_latest(RunDir(run_dir)) == "step-00000060"
    aside = {e.path.name: e.stage for e in list_checkpoints(RunDir(run_dir))}
    assert aside[f".superseded-0002-{newest.name}"] is Stage.SUPERSEDED


def test_a_live_run_refuses_a_second_start_and_stops_when_one_rank_is_asked_to(
    launch, tmp_path
):
    run_dir = tmp_path / "run"
    flags = ("--steps", "100000", "--save-every", "4")
    running = launch(run_dir, 3, *flags)
    running.wait_for_step(9)
    before = sorted(p.name for p in run_dir.iterdir())

    second = launch(run_dir, 3, *flags)
    resumed = opsdash("resume", run_dir)

    assert second.wait() == resumed.returncode == 73
    holder = running.rank_pid(0)
    assert f"`{run_dir}` is in use by process {holder}" in second.text()
    assert second.text().count("error:") == 1
    assert "hint: opsdash attach" in second.text()
    assert "is running" in resumed.stdout + resumed.stderr
    assert sorted(p.name for p in RunDir(run_dir).attempts.iterdir()) == ["0001.json"]
    assert sorted(p.name for p in run_dir.iterdir()) == before

    os.kill(running.rank_pid(2), signal.SIGTERM)

    assert running.wait() == 143, running.text()
    last = [max(joined_losses(run_dir, rank)) for rank in range(3)]
    ends = [
        [e.reason for _, e in events(run_dir, rank) if isinstance(e, RunEnded)]
        for rank in range(3)
    ]
    assert last == [last[0]] * 3
    assert ends == [["stopped"]] * 3
    saved = list_checkpoints(RunDir(run_dir))[0]
    assert (saved.stage, saved.number) == (Stage.VERIFIED, last[0])
    assert saved.manifest.reason == "signal"


def final_differences(one, other):
    """Return what differs between the newest states of two runs."""
    states = [
        torch.load(
            list_checkpoints(RunDir(run_dir))[0].path / "state.pt", weights_only=True
        )
        for run_dir in (one, other)
    ]
    return differences(*states)
