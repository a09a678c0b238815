"""How a start ends, told by exit code and one line."""

import itertools
import os
import signal

import psutil
import pytest

from agent.rundir.attempts import read_newest_attempt
from agent.rundir.checkpoints import list_checkpoints
from agent.rundir.events import CheckpointLoaded
from tests.processes import SMALL, events, joined_losses
from trainer.cli import main

pytestmark = [pytest.mark.dist, pytest.mark.slow]


def test_a_rank_that_was_killed_is_named_with_what_helps(launch, tmp_path):
    running = launch(tmp_path / "run", 2, "--steps", "100000", "--save-every", "0")
    running.wait_for_step(2)
    pid = running.rank_pid(1)

    os.kill(pid, signal.SIGKILL)

    assert running.wait() == 70
    assert f"error: rank 1 (process {pid}) was ended by SIGKILL" in running.text()
    assert f"hint: python -m trainer resume {tmp_path / 'run'}" in running.text()


def test_ranks_do_not_outlive_their_launcher(launch, tmp_path):
    running = launch(tmp_path / "run", 2, "--steps", "10000000", "--save-every", "0")
    running.wait_for_step(2)
    ranks = [psutil.Process(running.rank_pid(rank)) for rank in range(2)]

    os.kill(running.process.pid, signal.SIGKILL)

    gone, alive = psutil.wait_procs(ranks, timeout=60)
    assert (len(gone), alive) == (2, [])


def test_failed_ranks_are_started_again_and_go_on_where_they_were(launch, tmp_path):
    steps = ("--steps", "200", "--save-every", "10", "--max-restarts", "1")
    run_dir = tmp_path / "run"
    running = launch(run_dir, 2, *steps, "--resume", "never")
    running.wait_for_step(25)

    os.kill(running.rank_pid(1), signal.SIGKILL)

    assert running.wait() == 0, running.text()
    loaded = [e for a, e in events(run_dir) if isinstance(e, CheckpointLoaded)]
    assert [e.resumed_step >= 20 for e in loaded] == [True]
    assert max(joined_losses(run_dir)) == 200


def test_a_hangup_ends_like_a_stop_with_its_own_code(launch, tmp_path):
    running = launch(tmp_path / "run", 2, "--steps", "100000", "--save-every", "0")
    running.wait_for_step(2)

    os.kill(running.process.pid, signal.SIGHUP)

    assert running.wait() == 129, running.text()
    [saved] = list_checkpoints(running.run)
    assert saved.number == max(joined_losses(running.run.path))


def test_one_process_without_a_launcher_trains_stops_and_resumes(start, tmp_path):
    run_dir = tmp_path / "run"
    command = ("ddp", str(run_dir), *SMALL, "--steps", "100000", "--save-every", "0")
    running = start(run_dir, *command)
    running.wait_for_step(2)

    os.kill(running.process.pid, signal.SIGTERM)

    assert running.wait() == 143, running.text()
    stopped = max(joined_losses(run_dir))
    again = start(run_dir, *command)
    again.wait_for_step(stopped + 2, attempt=2)
    assert f"resumed from `step-{stopped:08d}`" in again.text()


def test_what_starts_it_again_is_recorded_with_absolute_paths(
    launch, start, tmp_path, monkeypatch
):
    config = tmp_path / "run.toml"
    config.write_text("steps = 3\nseed = 5\n")
    flags = ("--config", str(config), "--resume", "never", "--new-attempt")
    run_dir = tmp_path / "run"
    ended = launch(run_dir, 2, *flags, env={"OPSDASH_LR": "0.001"})
    assert ended.wait() == 0, ended.text()

    told = start(run_dir, "resume", str(run_dir), "--dry-run")

    assert told.wait() == 0
    recorded = read_newest_attempt(ended.run).resume_command
    assert recorded[1:5] == ("-m", "trainer", "launch", "ddp")
    assert recorded[5] == str(run_dir)
    assert recorded[-2:] == ("--resume", "{checkpoint}")
    assert "--config" not in recorded
    assert "--new-attempt" not in recorded
    flags = dict(itertools.pairwise(recorded))
    assert (flags["--steps"], flags["--seed"], flags["--lr"]) == ("3", "5", "0.001")
    assert flags["--nproc"] == "2"
    assert told.text().strip().endswith("--resume auto")


@pytest.mark.parametrize(
    ("command", "code", "told"),
    [
        (("resume", "{run}"), 66, "is not a directory"),
        (("pin", "{run}", "step-00000001"), 66, "is not a directory"),
        (("launch", "ddp", "{run}", "--nproc", "0"), 64, "`0` is less than 1"),
        (("ddp", "{run}", "--steps", "x"), 64, "`--steps` is `x`"),
        (("ddp", "{run}", "--resume", "step-00000007"), 66, "has no checkpoint"),
        (("ddp", "/proc/{run}"), 66, "cannot hold a run: No such file"),
    ],
)
def test_bad_input_is_one_clear_line_and_leaves_nothing_behind(
    capsys, tmp_path, command, code, told
):
    run_dir = tmp_path / "run"

    assert main([word.format(run=run_dir) for word in command]) == code

    text = capsys.readouterr().err
    assert text.count("error: ") == 1
    assert told in text
    assert not (run_dir / "checkpoints").exists()
    assert not (run_dir / "attempts" / "0001.json").exists()


def test_a_directory_that_holds_something_else_is_refused(launch, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("x")

    refused = launch(tmp_path / "run", 2, "--steps", "2")

    assert refused.wait() == 66
    assert "is not a run and not empty: it holds `thesis.tex`" in refused.text()
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == ["thesis.tex"]
