"""Commands that go on while a run does."""

import json
import subprocess
import sys

import pytest

from agent.rundir import events as ev
from tests.opsdash_command import PATIENCE_S, ROOT, environment, opsdash, start_opsdash
from tests.runs import RunWriter, dead_process


@pytest.fixture
def writer(tmp_path):
    writer = RunWriter(tmp_path / "run")
    writer.begin()
    writer.steps(1, 3)
    writer.beat()
    return writer


def test_following_ends_with_the_run_and_its_exit_code(writer):
    process = start_opsdash("status", writer.path, "--json", "--follow")
    first = json.loads(process.stdout.readline())
    writer.steps(4, 9)
    writer.end()

    rest, _ = process.communicate(timeout=PATIENCE_S)
    last = json.loads(rest.splitlines()[-1])

    assert (first["state"], first["step"]) == ("healthy", 3)
    assert (last["state"], last["step"]) == ("finished", 9)
    assert process.returncode == 0


def test_a_run_that_dies_ends_the_following_with_its_code(tmp_path):
    writer = RunWriter(tmp_path / "run", process=dead_process())
    writer.begin()
    writer.beat()

    result = opsdash("status", writer.path, "--follow", "--json")

    assert result.returncode == 2
    assert json.loads(result.stdout.splitlines()[-1])["state"] == "dead"


def test_silence_ends_the_following_when_asked(writer):
    result = opsdash("barriers", writer.path, "--follow", "--idle-timeout", "0.5")

    assert result.returncode == 0
    assert "nobody waits" in result.stdout


def test_events_come_one_by_one_as_they_are_written(writer):
    process = start_opsdash("events", writer.path, "--json", "--follow", "--all")
    seen = [json.loads(process.stdout.readline()) for _ in range(8)]
    writer.emit(0, ev.NonfiniteFound, tensor="head.weight", where="loss", step=4)
    later = json.loads(process.stdout.readline())
    process.terminate()
    process.communicate(timeout=PATIENCE_S)

    assert {event["kind"] for event in seen} == {"run_started", "step_done"}
    assert (later["kind"], later["severity"]) == ("nonfinite_found", "warning")
    assert later["text"] == "head.weight is not finite (loss)"
    assert process.returncode == 143


def test_words_that_were_not_kept_are_said_again_from_disk(writer):
    result = opsdash("events", writer.path, "--all", "--json")

    texts = [e["text"] for e in json.loads(result.stdout)["events"]]

    assert "loss 4, gradient 0.5, 100 ms" in texts


def test_attach_follows_as_text_until_the_end(writer):
    process = start_opsdash("attach", writer.path, "--follow")
    writer.emit(0, ev.NonfiniteFound, tensor="head.weight", where="loss", step=4)
    lines = []
    while not any("head.weight" in line for line in lines):
        lines.append(process.stdout.readline())
    writer.steps(4, 300)
    writer.end()

    rest, _ = process.communicate(timeout=PATIENCE_S)

    assert "finished: completed at step 300" in rest
    assert "FINISHED  completed at step 300" in rest
    assert process.returncode == 0


def test_resume_follows_its_new_attempt_to_the_end(tmp_path):
    script = tmp_path / "train.py"
    script.write_text(
        "import sys\n"
        "from agent.session import Agent\n"
        "with Agent.attach(sys.argv[1], world_size=1, rank=0) as agent:\n"
        "    agent.phase('training')\n"
        "    for step in range(16, 21):\n"
        "        agent.step_done(step, loss=1.0, step_ns=1000)\n"
    )
    writer = RunWriter(tmp_path / "run", process=dead_process(), world_size=1)
    writer.begin(
        resume_command=(sys.executable, str(script), str(writer.path), "{checkpoint}")
    )
    writer.steps(1, 18)
    writer.checkpoint(15)
    for path in (writer.path, writer.run.attempts, writer.run.attempt_file(1)):
        path.chmod(path.stat().st_mode & ~0o022)

    result = opsdash("resume", writer.path, "--follow")

    assert result.returncode == 0, result.stderr
    # Lines are wrapped, and where depends on how long the path is.
    assert "from step-00000015" in " ".join(result.stdout.split())
    assert "3 steps after step-00000015" in result.stdout
    assert "attempt 2 is alive: its first heartbeat is here" in result.stdout
    assert "FINISHED  completed at step 20" in result.stdout
    assert "attempt 1 began" not in result.stdout


def test_a_dry_run_shows_the_plan_and_starts_nothing(tmp_path):
    writer = RunWriter(tmp_path / "run", process=dead_process(), world_size=1)
    writer.begin(resume_command=(sys.executable, "-c", "print(1)", "{checkpoint}"))
    writer.checkpoint(15)
    for path in (writer.path, writer.run.attempts, writer.run.attempt_file(1)):
        path.chmod(path.stat().st_mode & ~0o022)

    result = opsdash("resume", writer.path, "--dry-run")

    assert result.returncode == 0
    assert f"runs      cd {tmp_path} && {sys.executable} -c" in result.stdout
    assert not writer.run.logs.exists()
    assert not writer.run.operations.exists()


def test_verify_tells_each_checkpoint_and_the_worst_code(writer):
    writer.checkpoint(10)
    path = writer.checkpoint(20)
    (path / "state.pt").write_bytes(b"")

    text = opsdash("verify", writer.path)
    told = json.loads(opsdash("verify", writer.path, "--json").stdout)

    assert text.returncode == 2
    assert text.stdout.splitlines()[-1] == "1 truncated, 1 sound"
    assert (told["schema"], told["exit_code"]) == (1, 2)
    assert [v["state"] for v in told["verdicts"]] == ["truncated", "sound"]


def test_headless_commands_load_no_textual_and_no_torch(writer):
    script = (
        "import sys\nfrom opsdash.cli import main\n"
        "code = main(sys.argv[1:])\n"
        "bad = {'textual', 'rich', 'torch', 'numpy', 'watchdog'} & set(sys.modules)\n"
        "sys.exit(f'{code} {bad}' if bad or code else 0)\n"
    )

    for words in (["status"], ["events", "--all"], ["checkpoints"], ["verify"]):
        writer.checkpoint(10) if words == ["verify"] else None
        result = subprocess.run(
            [sys.executable, "-c", script, words[0], str(writer.path), *words[1:]],
            capture_output=True,
            text=True,
            cwd=ROOT,
            env=environment(),
            timeout=PATIENCE_S,
        )
        assert result.returncode == 0, (words, result.stderr)
