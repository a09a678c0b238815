"""What resuming would do, when it may, and what it starts."""

import os
import re
import shlex
import socket
import sys
import time
from pathlib import Path

import msgspec
import pytest

from agent.rundir.errors import (
    EXIT_LOCKED,
    EXIT_RUN_DIR,
    DamagedCheckpointError,
    NoCheckpointError,
    NotARunError,
    RunDirError,
)
from agent.rundir.layout import RunDir
from agent.rundir.operations import read_operations
from agent.rundir.process import this_process
from agent.rundir.verify.watch import VerifyCancelled
from opsdash.operations import resume as module
from opsdash.operations.record import OperationLog
from opsdash.operations.resume import Loss, plan_resume
from opsdash.operations.start import Stage, start_resume
from tests.runs import SECOND, RunWriter, dead_process, remote_process

ROOT = Path(__file__).parents[3]
PATIENCE_S = 60
TRAINER = """
import sys, time
from pathlib import Path
from agent.session import Agent

run_dir, how, checkpoint = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
print(f"resuming from {checkpoint}", flush=True)
if how == "dies":
    sys.exit("no such device")
with Agent.attach(run_dir, world_size=1, rank=0) as agent:
    agent.phase("training")
    while not (run_dir.parent / "stop").exists():
        time.sleep(0.02)
"""


@pytest.fixture(autouse=True)
def surroundings(monkeypatch):
    """No batch job around us; what is started finds these packages."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    for name in module._BATCH_VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def writer(tmp_path, request):
    """A dead run with two checkpoints, whose command starts a small trainer."""
    script = tmp_path / "train.py"
    script.write_text(TRAINER)
    writer = RunWriter(tmp_path / "run", process=dead_process(), world_size=1)
    begin(writer)
    writer.checkpoint(10)
    writer.checkpoint(20)
    for path in (writer.path, writer.run.attempts, writer.run.attempt_file(1)):
        path.chmod(path.stat().st_mode & ~0o022)
    return writer


def begin(writer, how="lives", **fields):
    script = writer.path.parent / "train.py"
    writer.begin(
        **{
            "resume_command": (
                sys.executable,
                str(script),
                str(writer.path),
                how,
                "{checkpoint}",
            ),
            **fields,
        }
    )
    writer.run.attempt_file(writer.attempt).chmod(0o644)


def damage(writer, step):
    path = writer.run.checkpoints / f"step-{step:08d}" / "state.pt"
    data = bytearray(path.read_bytes())
    data[100] ^= 0xFF
    path.write_bytes(data)


def test_the_plan_names_checkpoint_command_and_loss(writer):
    plan = plan_resume(writer.run, loss=Loss(step=27, step_ns=2 * SECOND))

    assert plan.can_start
    assert plan.subject == "step-00000020"
    assert plan.command[-1] == "step-00000020"
    assert plan.cwd == str(writer.path.parent)
    assert "just read again" in plan.reads[0]
    assert plan.loses == (
        "7 steps after step-00000020, 14.0 s of work: they are done again",
    )
    assert plan.shell.startswith(f"cd {writer.path.parent} && ")


def test_a_damaged_checkpoint_is_passed_over_and_said_so(writer):
    damage(writer, 20)

    plan = plan_resume(writer.run)

    assert plan.subject == "step-00000010"
    assert plan.notes[0].startswith("step-00000020 is passed over: damaged")
    assert plan.loses == ("step-00000020 is set aside as superseded",)


def test_a_named_checkpoint_that_is_damaged_is_refused(writer):
    damage(writer, 20)

    with pytest.raises(DamagedCheckpointError, match="`step-00000020` does not hold"):
        plan_resume(writer.run, name="step-00000020")


def test_where_nothing_holds_every_one_is_named(writer):
    damage(writer, 10)
    damage(writer, 20)

    with pytest.raises(NoCheckpointError, match=r"step-00000020.*step-00000010"):
        plan_resume(writer.run)


def test_without_a_checkpoint_the_hint_is_the_run_s_own_command(tmp_path):
    writer = RunWriter(tmp_path / "run", process=dead_process())
    writer.begin()

    with pytest.raises(NoCheckpointError, match="none was published") as caught:
        plan_resume(writer.run)

    assert caught.value.hint.endswith("python -m trainer resume --from auto")


def test_what_was_set_aside_is_not_resumed_even_by_name(writer):
    path = writer.run.checkpoints / "step-00000020"
    path.rename(path.with_name(".superseded-0002-step-00000020"))

    with pytest.raises(NoCheckpointError, match="a later attempt gave up"):
        plan_resume(writer.run, name=".superseded-0002-step-00000020")


def test_a_directory_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(NotARunError):
        plan_resume(RunDir(tmp_path))


def test_reading_again_can_be_cancelled(writer):
    with pytest.raises(VerifyCancelled):
        plan_resume(writer.run, is_cancelled=lambda: True)


def test_a_live_run_is_not_resumed(writer):
    writer.lock(this_process())

    plan = plan_resume(writer.run)

    assert plan.why_not.startswith("attempt 1 is running: process")
    assert plan.exit_code == EXIT_LOCKED


def test_a_run_that_may_live_elsewhere_is_not_resumed(writer):
    writer.lock(remote_process())

    plan = plan_resume(writer.run)

    assert "may be running" in plan.why_not
    assert plan.exit_code == EXIT_LOCKED


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"resume_command": None}, "recorded no command"),
        ({"num_nodes": 2}, "it ran on 2 hosts"),
        ({"batch_job": "slurm 4711"}, r"batch job \(slurm 4711\)"),
        ({"process": remote_process()}, "it ran on host node-b.example, this is"),
        ({"cwd": "/nowhere/at/all"}, "working directory `/nowhere/at/all` is gone"),
        (
            {"resume_command": ("/no/program", "x")},
            "program `/no/program` is not there",
        ),
    ],
)
def test_elsewhere_the_plan_is_only_shown(writer, fields, why):
    begin(writer, **fields)
    writer.unlock()

    plan = plan_resume(writer.run)

    assert not plan.can_start
    assert plan.exit_code == EXIT_RUN_DIR
    assert plan.subject == "step-00000020"
    assert re.search(why, plan.why_not)


def test_a_run_on_flower_says_what_starts_it_and_where_it_goes_on(tmp_path):
    writer = RunWriter(
        tmp_path / "a run", kind="federated", process=dead_process(), world_size=1
    )
    writer.begin(resume_command=None, versions={"flwr": "1.41.0"})
    writer.unlock()

    plan = plan_resume(writer.run)

    assert not plan.can_start
    assert plan.command == ()
    assert "the newest committed round" in plan.why_not
    words = shlex.split(plan.why_not.split("`")[3])
    assert words == ["--run-config", f'run-dir="{writer.path}"']


def test_inside_a_batch_allocation_nothing_is_started(writer, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "4711")

    assert "SLURM_JOB_ID is set" in plan_resume(writer.run).why_not


def test_a_command_that_others_could_have_written_is_not_started(writer):
    writer.run.attempt_file(1).chmod(0o666)

    plan = plan_resume(writer.run)

    assert plan.why_not.endswith("can be written by everybody")
    with pytest.raises(ValueError, match="must not be started"):
        start_resume(writer.run, plan)


def test_a_resume_starts_detached_and_is_seen_alive(writer):
    plan = plan_resume(writer.run)

    started = start_resume(writer.run, plan)
    try:
        stages = wait_for(started)
    finally:
        (writer.path.parent / "stop").touch()
        started.process.wait(PATIENCE_S)

    assert stages[-1] is Stage.ALIVE
    assert started.attempt == 2
    assert "resuming from step-00000020" in started.log_path.read_text()
    assert [(o.kind, o.stage, o.subject) for o in read_operations(writer.run)] == [
        ("resume", "started", "step-00000020"),
        ("resume", "done", None),
    ]


def test_a_trainer_has_a_session_of_its_own(writer):
    started = start_resume(writer.run, plan_resume(writer.run))
    try:
        session = os.getsid(started.process.pid)
    finally:
        (writer.path.parent / "stop").touch()
        started.process.wait(PATIENCE_S)

    assert session == started.process.pid


def test_a_trainer_that_ends_early_is_told_with_its_last_words(writer):
    begin(writer, "dies")

    started = start_resume(writer.run, plan_resume(writer.run))
    stages = wait_for(started)

    assert stages[-1] is Stage.ENDED
    assert started.process.returncode == 1
    assert started.last_output()[-1] == "no such device"
    assert read_operations(writer.run)[-1].stage == "failed"


def test_a_run_directory_that_cannot_hold_a_log_is_an_error(writer):
    plan = plan_resume(writer.run)
    writer.run.logs.write_text("a file in its place")

    with pytest.raises(RunDirError, match="cannot be started"):
        start_resume(writer.run, plan, OperationLog(writer.run))

    assert not writer.run.operations.exists()


def wait_for(started):
    """Poll until the start has come to something; return the stages in order."""
    stages, deadline = [], time.monotonic() + PATIENCE_S
    while not stages or stages[-1] not in (Stage.ALIVE, Stage.ENDED):
        stage = started.poll()
        if not stages or stage is not stages[-1]:
            stages.append(stage)
        assert time.monotonic() < deadline, stages
        time.sleep(0.02)
    return stages


def test_this_host_is_the_one_that_is_compared_with(writer):
    assert msgspec.structs.asdict(this_process())["host"] == socket.gethostname()


def test_going_back_behind_a_newer_checkpoint_wants_the_name_of_the_run(writer):
    newest, named, older = (
        plan_resume(writer.run, name=name)
        for name in (None, "step-00000020", "step-00000010")
    )

    assert (newest.confirm_name, named.confirm_name) == ("", "")
    assert older.confirm_name == "run"
    assert "step-00000020 is set aside as superseded" in older.loses
