"""Words, exit codes, errors and signals of the command line."""

import os
import re
import signal
import subprocess
import sys
import time

import msgspec
import pytest

from agent.rundir import events as ev
from agent.rundir.process import this_process
from tests.opsdash_command import (
    PATIENCE_S,
    command,
    environment,
    opsdash,
    start_opsdash,
    tree,
)
from tests.runs import RunWriter, dead_process, remote_process


@pytest.fixture
def writer(tmp_path):
    writer = RunWriter(tmp_path / "run")
    writer.begin()
    writer.steps(1, 20)
    writer.checkpoint(15)
    writer.beat()
    return writer


def damage(writer, step=15):
    path = writer.run.checkpoints / f"step-{step:08d}" / "state.pt"
    path.write_bytes(path.read_bytes()[:-1] + b"\xff")


def newer_schema(writer):
    identity = msgspec.json.decode(writer.run.identity.read_bytes())
    writer.run.identity.write_bytes(msgspec.json.encode({**identity, "schema": 9}))


def is_told(result):
    """One `error:` line and one `hint:` line, nothing else, on standard error."""
    lines = result.stderr.splitlines()
    return (
        len(lines) == 2
        and lines[0].startswith("error: ")
        and lines[1].startswith("hint: ")
        and not lines[0].endswith(".")
    )


@pytest.mark.parametrize("arguments", [["--help"], ["status", "--help"], ["--version"]])
def test_help_and_version_are_no_errors(arguments):
    result = opsdash(*arguments)

    assert (result.returncode, result.stderr) == (0, "")
    assert "opsdash" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ([], "no command was given"),
        (["stauts", "x"], "unknown command `stauts`: did you mean `status`"),
        (["frobnicate"], "unknown command `frobnicate`"),
        (["status"], "the following arguments are required: RUN_DIR"),
        (["status", "x", "--frob"], "unrecognized arguments: --frob"),
        (["verify", "x", "--level", "some"], "argument --level: invalid choice"),
        (["status", "x", "--idle-timeout", "-1"], "argument --idle-timeout"),
        (["events", "x", "--last", "many"], "argument --last"),
    ],
)
def test_wrong_usage_is_told_in_two_lines(arguments, error):
    result = opsdash(*arguments)

    assert (result.returncode, result.stdout) == (64, "")
    assert error in result.stderr
    assert is_told(result)


READING = (
    "status",
    "events",
    "barriers",
    "checkpoints",
    "optimizer",
    "chunks",
    "rounds",
)


NO_RUNS = ("missing", "empty", "no run.json", "newer", "torn")


@pytest.mark.parametrize(
    ("name", "what"),
    [
        *(("status", what) for what in NO_RUNS),
        *(
            (name, "no run.json")
            for name in (*READING[1:], "attach", "resume", "doctor")
        ),
    ],
)
def test_what_is_no_run_is_told_and_left_as_it_is(tmp_path, name, what):
    path = tmp_path / "run"
    if what == "empty":
        path.mkdir()
    elif what == "no run.json":
        (path / "telemetry").mkdir(parents=True)
    elif what in ("newer", "torn"):
        writer = RunWriter(path)
        if what == "newer":
            newer_schema(writer)
        else:
            writer.run.identity.write_bytes(b'{"schema"')
    before = tree(tmp_path)

    result = opsdash(name, path)

    assert (result.returncode, result.stdout) == (66, "")
    assert result.stderr.startswith("error: ")
    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    ("make", "arguments", "code"),
    [
        (damage, ["verify", "RUN"], 2),
        (damage, ["resume", "RUN", "--from", "step-00000015"], 66),
        (damage, ["resume", "RUN"], 66),
        (lambda w: None, ["resume", "RUN", "--from", "step-00000099"], 66),
        (lambda w: w.lock(this_process()), ["resume", "RUN"], 73),
        (lambda w: w.lock(remote_process()), ["resume", "RUN"], 73),
        (lambda w: w.run.attempt_file(1).chmod(0o666), ["resume", "RUN"], 66),
        (lambda w: None, ["verify", "RUN/checkpoints/step-00000099"], 1),
        (lambda w: None, ["resume", "RUN", "--dry-run"], 66),
    ],
)
def test_bad_input_changes_nothing_on_disk(tmp_path, make, arguments, code):
    writer = RunWriter(tmp_path / "run", process=dead_process())
    writer.begin(resume_command=("/no/such/program", "{checkpoint}"))
    writer.steps(1, 3)
    writer.checkpoint(15)
    make(writer)
    before = tree(tmp_path)

    result = opsdash(*(a.replace("RUN", str(writer.path)) for a in arguments))

    assert result.returncode == code
    assert tree(tmp_path) == before
    if code in (66, 73):
        assert is_told(result)


def test_the_state_is_the_exit_code_of_status(tmp_path):
    codes = {}
    for name, process in (("live", None), ("dead", dead_process())):
        writer = RunWriter(tmp_path / name, process=process)
        writer.begin()
        writer.steps(1, 3)
        writer.beat()
        codes[name] = opsdash("status", writer.path).returncode
    writer.end()
    codes["finished"] = opsdash("status", writer.path).returncode
    live = RunWriter(tmp_path / "degraded")
    live.begin()
    live.emit(0, ev.EventsDropped, num_dropped=1, reason="x")
    codes["degraded"] = opsdash("status", live.path).returncode
    far = RunWriter(tmp_path / "blind", process=remote_process())
    far.begin()
    far.age(3_600)
    codes["blind"] = opsdash("status", far.path).returncode

    assert codes == {"live": 0, "dead": 2, "finished": 0, "degraded": 1, "blind": 3}


def test_the_report_begins_with_the_verdict_and_ends_with_what_to_do(tmp_path):
    writer = RunWriter(tmp_path / "run", process=dead_process())
    writer.begin()
    writer.steps(1, 20)
    writer.checkpoint(15)

    lines = opsdash("status", writer.path).stdout.splitlines()

    assert lines[0].startswith("DEAD      every process of attempt 1 is gone")
    assert any(line.startswith("saved     step-00000015, verified") for line in lines)
    assert any(line.startswith("lost      5 steps, 500 ms of work") for line in lines)
    assert f"try       opsdash resume {writer.path}" in lines


def test_text_from_disk_cannot_act_on_the_terminal(tmp_path):
    writer = RunWriter(tmp_path / "run", process=dead_process())
    writer.begin()
    evil = "\x1b[2J\x1b]0;owned\x07\u202e[bold red]"
    writer.emit(0, ev.PhaseChanged, phase=evil)
    writer.emit(0, ev.RunEnded, reason="error", error=evil)
    writer.emit(0, ev.OptimizerNorms, optimizer=evil, state={evil: 1.0}, step=1)
    writer.emit(0, ev.CheckpointPruned, checkpoint=evil, freed_bytes=1)
    (writer.run.checkpoints / evil.replace("/", "")).mkdir()
    writer.append("rank-00000", f'{{"{evil}'.encode() + b"\n")

    outputs = [opsdash(name, writer.path).stdout for name in READING]
    outputs.append(opsdash("events", writer.path, "--all").stdout)

    for output in outputs:
        assert output
        assert not re.search("[\x00-\x09\x0b-\x1f\x7f\u202e]", output)


def test_a_terminal_without_unicode_gets_escapes(writer):
    writer.emit(0, ev.RunEnded, reason="error", error="größer ∞")

    result = opsdash("events", writer.path, PYTHONIOENCODING="ascii")

    assert result.returncode == 0
    assert "gr\\xf6\\xdfer \\u221e" in result.stdout


def test_a_terminal_without_unicode_gets_microseconds_with_a_letter(writer):
    wait = ev.Wait("step.agree", 21, writer.mono_ns - 420_000, 420_000)
    for rank in range(2):
        writer.emit(rank, ev.StepDone, step=21, step_ns=10**8, waits=(wait,))

    result = opsdash("barriers", writer.path, PYTHONIOENCODING="ascii")

    assert "us" in result.stdout.split()


def test_attach_without_a_terminal_prints_the_report_of_the_newest_run(tmp_path):
    for name in ("old", "new"):
        writer = RunWriter(tmp_path / "runs" / name)
        writer.begin()
        writer.steps(1, 3)
        writer.end()
    past = time.time() - 3_600
    for place in (tmp_path / "runs/old/run.json", tmp_path / "runs/old/attempts"):
        os.utime(place, (past, past))

    result = opsdash("attach", cwd=tmp_path)

    assert result.returncode == 0
    assert "FINISHED  completed at step 3" in result.stdout
    assert "runs/new" in result.stdout


def test_attach_where_there_is_no_run_says_how_to_make_one(tmp_path):
    result = opsdash("attach", cwd=tmp_path)

    assert result.returncode == 66
    assert "there is no run below" in result.stderr
    assert "opsdash demo" in result.stderr


def test_paths_follow_the_desktop_s_conventions(tmp_path):
    result = opsdash("paths", XDG_CONFIG_HOME=str(tmp_path), XDG_STATE_HOME="relative")

    assert f"config    {tmp_path}/opsdash/config.toml" in result.stdout
    assert "/.local/state/opsdash/crashes" in result.stdout


def test_the_doctor_looks_and_leaves_nothing(writer, tmp_path):
    before = tree(tmp_path)

    result = opsdash("doctor", writer.path, MASTER_ADDR="localhost")

    assert result.returncode == 0
    for word in ("terminal", "file system:", "fsync:", "MASTER_ADDR", "resume:"):
        assert word in result.stdout
    assert tree(tmp_path) == before


def test_a_fault_of_ours_leaves_its_story_in_a_file(writer, tmp_path):
    script = (
        "import sys, opsdash.commands.panes as panes, opsdash.cli as cli\n"
        "def broken(*args): raise ZeroDivisionError('a bug')\n"
        "panes.attach = broken\n"
        f"sys.exit(cli.main(['status', {str(writer.path)!r}]))\n"
    )

    result = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        env=environment(XDG_STATE_HOME=str(tmp_path / "state")),
        timeout=PATIENCE_S,
    )
    (report,) = (tmp_path / "state/opsdash/crashes").iterdir()

    assert result.returncode == 70
    assert is_told(result)
    assert str(report) in result.stderr
    assert "ZeroDivisionError: a bug" in report.read_text()


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130)],
)
def test_a_signal_ends_a_follower_quietly(writer, number, code):
    process = start_opsdash("status", writer.path, "--follow")
    first = process.stdout.readline()

    process.send_signal(number)
    _, errors = process.communicate(timeout=PATIENCE_S)

    assert first.startswith("HEALTHY")
    assert (process.returncode, errors) == (code, "")


def test_a_reader_that_leaves_is_no_error(writer):
    writer.steps(21, 2_000)
    reading = f"{' '.join(command('events', writer.path, '--all', '--last', '0'))}"

    result = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {reading} | head -1"],
        capture_output=True,
        text=True,
        env=environment(),
        timeout=PATIENCE_S,
    )

    assert result.stderr == ""
    assert result.returncode == 128 + signal.SIGPIPE
    assert len(result.stdout.splitlines()) == 1


def test_nohup_keeps_its_word(writer):
    process = subprocess.Popen(
        ["nohup", *command("status", writer.path, "--follow", "--idle-timeout", "3")],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        stdin=subprocess.DEVNULL,
        text=True,
        env=environment(),
    )
    process.stdout.readline()

    process.send_signal(signal.SIGHUP)
    process.communicate(timeout=PATIENCE_S)

    assert process.returncode != 129
