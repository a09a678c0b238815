import errno
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from agent.rundir.attempts import (
    fill_resume_command,
    list_attempts,
    read_attempt,
    read_identity,
)
from agent.rundir.errors import (
    ConfigMismatchError,
    LockedError,
    NewerSchemaError,
    NotARunError,
    UnreadableFileError,
    UnwritableError,
)
from agent.rundir.layout import RunDir
from agent.start import begin_run, launch_id_from_environment

ROOT = Path(__file__).parent.parent.parent


def snapshot(path: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*") if p.is_file()
    }


def test_a_first_start_makes_the_run_and_records_the_attempt(tmp_path):
    start = begin_run(tmp_path / "run", kind="ddp", config={"lr": 1e-3})
    start.record(resume_command=["train", "{checkpoint}"], world_size=2)

    run = start.run
    attempt = read_attempt(run, 1)
    assert start.is_new
    assert read_identity(run).kind == "ddp"
    assert attempt.config == {"lr": 1e-3}
    assert attempt.world_size == 2
    assert attempt.process.pid == os.getpid()
    assert attempt.cwd == str(Path.cwd())
    assert fill_resume_command(attempt, "step-00000001") == ["train", "step-00000001"]
    start.release()
    assert not run.lock.exists()


def test_what_an_attempt_was_started_with_is_kept_without_its_secrets(
    tmp_path, monkeypatch
):
    given = ["app", "--token", "abc", "--db-password=xyz", "--tokens", "file", "--lr=1"]
    monkeypatch.setattr(sys, "orig_argv", given)
    start = begin_run(tmp_path, kind="federated")

    start.record()

    argv = read_attempt(start.run, 1).argv
    assert argv == (
        "app",
        "--token",
        "…",
        "--db-password=…",
        "--tokens",
        "file",
        "--lr=1",
    )
    start.release()


def test_what_is_no_utf_8_keeps_no_trainer_from_beginning(tmp_path, monkeypatch):
    latin_1 = os.fsdecode(b"caf\xe9")
    folder = tmp_path / latin_1
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "orig_argv", ["train", latin_1])
    monkeypatch.setenv("MASTER_ADDR", latin_1)
    monkeypatch.setenv("SLURM_JOB_ID", latin_1)

    for _ in range(2):
        config = {"data": latin_1, "files": [latin_1, 1], "more": {latin_1: None}}
        start = begin_run(folder / "run", kind="ddp", config=config)
        attempt = start.record(resume_command=["train", latin_1])
        start.release()

    recorded = read_attempt(start.run, 2)
    assert recorded == attempt
    assert recorded.argv == ("train", r"caf\udce9")
    assert recorded.config["files"] == [r"caf\udce9", 1]
    assert recorded.environment["MASTER_ADDR"] == r"caf\udce9"
    assert recorded.launch_id.startswith(r"caf\udce9/")
    assert recorded.resume_command is None  # it would start something else


def test_the_next_start_is_another_attempt_of_the_same_run(tmp_path):
    first = begin_run(tmp_path, kind="ddp", config={"lr": 1})
    first.record()
    first.release()

    second = begin_run(tmp_path, kind="ddp", config={"lr": 1})
    second.record(resumed_from="step-00000010", resumed_step=10)

    assert second.attempt == 2
    assert not second.is_new
    assert second.identity == first.identity
    assert read_attempt(second.run, 2).resumed_from == "step-00000010"
    second.release()


def test_a_start_that_crashed_before_it_was_recorded_keeps_its_number(tmp_path):
    start = begin_run(tmp_path, kind="ddp")
    start.run.telemetry_file(1, "rank-00000").parent.mkdir(parents=True)
    start.release()

    again = begin_run(tmp_path, kind="ddp")

    assert again.attempt == 2
    again.release()


def test_a_second_start_on_a_live_run_is_refused_and_changes_nothing(tmp_path):
    start = begin_run(tmp_path, kind="ddp")
    start.record()
    before = snapshot(tmp_path)

    with pytest.raises(LockedError):
        begin_run(tmp_path, kind="ddp")

    assert snapshot(tmp_path) == before
    start.release()


def test_another_configuration_is_refused_by_the_first_field_that_differs(tmp_path):
    start = begin_run(tmp_path, kind="ddp", config={"lr": 1, "seed": 2, "size": 3})
    start.record()
    start.release()

    with pytest.raises(ConfigMismatchError, match="`seed` = `2`, this start has `5`"):
        begin_run(tmp_path, kind="ddp", config={"lr": 1, "seed": 5, "size": 4})

    assert not start.run.lock.exists()
    assert list_attempts(start.run) == [1]


def test_a_setting_that_another_version_added_is_no_other_configuration(tmp_path):
    start = begin_run(tmp_path, kind="ddp", config={"lr": 1, "dropped": 2})
    start.record()
    start.release()

    again = begin_run(tmp_path, kind="ddp", config={"lr": 1, "added": 3})

    assert again.attempt == 2
    again.release()


def test_another_configuration_on_purpose_is_a_new_attempt(tmp_path):
    start = begin_run(tmp_path, kind="ddp", config={"lr": 1})
    start.record()
    start.release()

    again = begin_run(tmp_path, kind="ddp", config={"lr": 2}, new_attempt=True)

    assert again.attempt == 2
    again.release()


def test_a_directory_with_something_else_in_it_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")

    with pytest.raises(NotARunError, match=r"`thesis\.tex`"):
        begin_run(tmp_path, kind="ddp")

    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_run_of_another_kind_is_refused(tmp_path):
    begin_run(tmp_path, kind="federated").release()

    with pytest.raises(NotARunError, match="federated"):
        begin_run(tmp_path, kind="ddp")


def test_a_run_of_a_newer_version_is_refused(tmp_path):
    begin_run(tmp_path, kind="ddp").release()
    identity = json.loads((tmp_path / "run.json").read_bytes())
    (tmp_path / "run.json").write_text(json.dumps(identity | {"schema": 99}))

    with pytest.raises(NewerSchemaError, match="schema 99"):
        begin_run(tmp_path, kind="ddp")


@pytest.mark.parametrize("content", [b"", b"\xff", b"[1]", b'{"schema": "x"}'])
def test_an_identity_that_is_none_is_named(tmp_path, content):
    (tmp_path / "run.json").write_bytes(content)

    with pytest.raises(UnreadableFileError, match=r"run\.json"):
        read_identity(RunDir(tmp_path))


def test_no_directory_and_no_run_are_told_apart(tmp_path):
    with pytest.raises(NotARunError, match="is not a directory"):
        read_identity(RunDir(tmp_path / "none"))
    with pytest.raises(NotARunError, match="no trainer has started there"):
        read_identity(RunDir(tmp_path))


@pytest.mark.parametrize("place", ["file/run", "/proc/no-such-place/run"])
def test_a_directory_that_cannot_be_made_is_said_in_words(tmp_path, place):
    (tmp_path / "file").write_text("x")

    with pytest.raises(UnwritableError, match="cannot hold a run") as caught:
        begin_run(tmp_path / place, kind="ddp")

    assert caught.value.hint.startswith("ls -ld")


def test_a_full_disk_is_said_without_a_file_that_nobody_knows(tmp_path, monkeypatch):
    def fail(*_args, **_named):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("agent.start._begin", fail)

    with pytest.raises(UnwritableError) as caught:
        begin_run(tmp_path / "run", kind="ddp")

    assert str(caught.value).endswith("cannot hold a run: No space left on device")


@pytest.mark.parametrize("name", ["TORCHELASTIC_RESTART_COUNT", "WORLD_SIZE"])
def test_a_restart_with_the_same_address_is_another_start(monkeypatch, name):
    monkeypatch.setenv("MASTER_ADDR", "node-0")
    ids = set()
    for value in ("1", "2"):
        monkeypatch.setenv(name, value)
        ids.add(launch_id_from_environment())

    assert len(ids) == 2


def test_on_several_nodes_each_of_which_counts_its_own_restarts_a_start_is_one(
    monkeypatch,
):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "one")
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    ids = set()
    for count in ("0", "1"):
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", count)
        ids.add(launch_id_from_environment())

    assert len(ids) == 1


def test_many_starts_in_a_row_never_share_a_number(tmp_path):
    script = """
        import sys
        from pathlib import Path
        from agent.rundir.errors import LockedError
        from agent.start import begin_run, launch_id_from_environment
        done = 0
        while done < 5:
            try:
                start = begin_run(Path(sys.argv[1]), kind="ddp")
            except LockedError:
                continue
            start.record()
            start.release()
            done += 1
    """
    starts = [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(script), str(tmp_path / "run")],
            cwd=ROOT,
        )
        for _ in range(3)
    ]

    assert [start.wait() for start in starts] == [0, 0, 0]
    assert list_attempts(RunDir(tmp_path / "run")) == list(range(1, 16))
