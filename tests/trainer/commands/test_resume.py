"""`python -m trainer resume`: the recorded command, or what there is instead of it."""

import subprocess
import sys

import pytest

from agent.rundir.errors import LockedError, NoCheckpointError
from agent.rundir.layout import RunDir
from agent.start import begin_run
from trainer.commands.resume import main, recorded_command


def begin(run_dir, *, kind="ddp", **facts):
    start = begin_run(run_dir, kind=kind)
    start.record(**facts)
    start.release()
    return RunDir(run_dir)


def resume(run):
    command = [sys.executable, "-m", "trainer", "resume", str(run.path)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_recorded_command_is_started_wherever_its_program_is(tmp_path):
    run = begin(tmp_path / "run", resume_command=["echo", "from", "{checkpoint}"])

    done = resume(run)

    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "from auto"


def test_a_program_that_is_not_there_is_said(tmp_path):
    run = begin(tmp_path / "run", resume_command=["no-such-program", "x"])

    done = resume(run)

    assert done.returncode == 66
    assert "`no-such-program` cannot be started in" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_run_that_is_alive_is_left_alone(tmp_path):
    start = begin_run(tmp_path / "run", kind="ddp")
    start.record(resume_command=["echo"])

    with pytest.raises(LockedError, match="is running"):
        main([str(tmp_path / "run")])

    start.release()


@pytest.mark.parametrize(
    ("kind", "versions", "hint"),
    [
        ("ddp", {}, "python -m trainer launch ddp "),
        ("federated", {}, "python -m trainer launch fl "),
        ("federated", {"flwr": "1.41.0"}, "flwr run APP --run-config 'run-dir=\""),
    ],
)
def test_a_run_without_a_command_names_one_of_its_kind(tmp_path, kind, versions, hint):
    run = begin(tmp_path / "a run", kind=kind, versions=versions)

    with pytest.raises(NoCheckpointError, match="has not recorded how") as caught:
        recorded_command(run, "auto")

    assert caught.value.hint.startswith(hint)
