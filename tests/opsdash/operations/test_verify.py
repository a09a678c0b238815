"""Verifying in the background, and where its outcome stays."""

import os
import threading

import pytest

from agent.rundir.errors import NoCheckpointError
from agent.rundir.operations import read_operations
from agent.rundir.process import user_at_host
from agent.rundir.verify.verdict import Finding, Level
from agent.rundir.verify.watch import VerifyCancelled
from opsdash.operations.record import OperationLog
from opsdash.operations.targets import describe_finding, find_targets
from opsdash.operations.verify import VerifyJob
from tests.runs import RunWriter, Watcher

PATIENCE_S = 60


@pytest.fixture
def writer(tmp_path):
    writer = RunWriter(tmp_path / "run")
    writer.begin()
    writer.checkpoint(10)
    writer.checkpoint(20)
    return writer


def test_a_run_stands_for_all_that_it_holds(writer):
    (writer.run.checkpoints / ".partial-step-00000030").mkdir()

    names = [target.name for target in find_targets(writer.path)]

    assert names == ["step-00000020", "step-00000010"]


def test_any_other_path_stands_for_itself(writer, tmp_path):
    path = writer.run.checkpoints / "step-00000010"

    assert [t.path for t in find_targets(path)] == [path]
    assert [t.path for t in find_targets(tmp_path / "nothing")] == [
        tmp_path / "nothing"
    ]


def test_a_run_that_holds_nothing_is_an_error(tmp_path):
    writer = RunWriter(tmp_path / "run")

    with pytest.raises(NoCheckpointError, match="no checkpoint and no chunk store"):
        find_targets(writer.path)


def test_outcomes_go_into_the_operations_and_onto_later_screens(writer):
    state = writer.run.checkpoints / "step-00000020" / "state.pt"
    state.write_bytes(state.read_bytes()[:-1] + b"\xff")
    job = VerifyJob(find_targets(writer.path), log=OperationLog(writer.run))

    job.start()
    job.wait(PATIENCE_S)
    rows = Watcher(writer.run).run.checkpoints.rows()

    assert job.is_done
    assert {n: v.state for n, v in job.verdicts.items()} == {
        "step-00000020": "damaged",
        "step-00000010": "sound",
    }
    assert [(r.number, r.stage, r.check.by) for r in rows] == [
        (20, "damaged", user_at_host()),
        (10, "verified", user_at_host()),
    ]
    assert all(
        o.command[:2] == ("opsdash", "verify") for o in read_operations(writer.run)
    )


def test_nothing_is_written_into_what_the_trainer_owns(writer):
    before = writer.run.verified.read_bytes()
    job = VerifyJob(find_targets(writer.path), log=OperationLog(writer.run))

    job.start()
    job.wait(PATIENCE_S)

    assert writer.run.verified.read_bytes() == before


def test_a_cancelled_job_says_so_and_keeps_what_it_has(writer):
    job = VerifyJob(find_targets(writer.path), log=OperationLog(writer.run))
    job.is_cancelled = True

    job.start()
    job.wait(PATIENCE_S)

    assert job.is_done
    assert job.verdicts == {}


def test_cancelling_in_the_middle_is_recorded(writer, monkeypatch):
    reading, may_go_on = threading.Event(), threading.Event()

    def slow(target, level, *, progress, is_cancelled):
        progress(1, 10)
        reading.set()
        may_go_on.wait(PATIENCE_S)
        if is_cancelled():
            raise VerifyCancelled
        raise AssertionError("it was not told")

    monkeypatch.setattr("opsdash.operations.verify.verify_target", slow)
    job = VerifyJob(find_targets(writer.path), log=OperationLog(writer.run))
    job.start()
    reading.wait(PATIENCE_S)
    seen = job.progress

    job.cancel()
    may_go_on.set()
    job.wait(PATIENCE_S)

    assert (seen.name, seen.done_bytes, seen.total_bytes) == ("step-00000020", 1, 10)
    assert job.is_cancelled
    assert [o.stage for o in read_operations(writer.run)] == ["cancelled"]


def test_a_fault_of_ours_is_an_outcome_and_no_silent_end(writer, monkeypatch):
    def broken(*args, **kwargs):
        raise RuntimeError("a bug")

    monkeypatch.setattr("opsdash.operations.verify.verify_target", broken)
    job = VerifyJob(find_targets(writer.path)[:1], log=OperationLog(writer.run))

    job.start()
    job.wait(PATIENCE_S)

    assert job.error == "step-00000020: RuntimeError: a bug"


def test_a_directory_that_cannot_be_written_loses_only_the_entry(writer):
    writer.run.operations.write_text("a file in its place")
    log = OperationLog(writer.run)
    job = VerifyJob(find_targets(writer.path), log=log)

    job.start()
    job.wait(PATIENCE_S)

    assert len(job.verdicts) == 2
    assert log.problem


def test_who_only_looks_leaves_nothing(writer):
    OperationLog(writer.run)

    assert not writer.run.operations.exists()


@pytest.mark.parametrize(
    ("level", "flags"),
    [(Level.CONTENT, ()), (Level.STRUCTURE, ("--level", "structure"))],
)
def test_the_command_that_does_the_same_is_written_down(writer, level, flags):
    targets = find_targets(writer.path)[:1]
    job = VerifyJob(targets, level, OperationLog(writer.run))

    job.start()
    job.wait(PATIENCE_S)

    (written,) = read_operations(writer.run)
    assert written.command == ("opsdash", "verify", *flags, str(targets[0].path))


def test_outcomes_in_a_directory_whose_name_is_no_utf_8_are_written_down(tmp_path):
    writer = RunWriter(tmp_path / os.fsdecode(b"run-\xe9"))
    writer.begin()
    writer.checkpoint(10)
    job = VerifyJob(find_targets(writer.path), log=OperationLog(writer.run))

    job.start()
    job.wait(PATIENCE_S)

    (written,) = read_operations(writer.run)
    assert job.error is None
    assert (written.stage, written.state) == ("done", "sound")
    assert "run-\\udce9" in written.command[-1]


def test_a_finding_says_what_its_message_left_out():
    finding = Finding(
        file="state.pt",
        message="the record `data/3` differs",
        record="data/3",
        tensor="head.weight",
        offset=77,
        expected="a" * 70,
        found="b",
    )

    assert describe_finding(finding) == (
        "state.pt, tensor head.weight, byte 77: the record `data/3` differs "
        "(expected aaaaaaaaaaaaaaaaaaaa..., found b)"
    )
