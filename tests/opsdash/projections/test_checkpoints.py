"""Where each checkpoint is in its life, and whether it resumes."""

import shutil

import msgspec
import pytest

from agent.rundir import events as ev
from agent.rundir.manifest import read_manifest
from agent.rundir.operations import Operation, encode_operation
from tests.runs import SECOND, RunWriter, Watcher


@pytest.fixture
def writer(tmp_path):
    writer = RunWriter(tmp_path / "run")
    writer.begin()
    return writer


def rows(writer):
    return Watcher(writer.run).run.checkpoints.rows()


def operation(writer, step, state, *, later=1, **fields):
    """What an operator found, so many seconds after the writer's clock."""
    name = f"step-{step:08d}"
    _, digest = read_manifest(writer.run.checkpoints / name)
    entry = Operation(
        **{
            "schema": 1,
            "id": "host-1-0",
            "kind": "verify",
            "stage": "done",
            "time_ns": writer.time_ns + later * SECOND,
            "by": "ada@node-a",
            "subject": name,
            "digest": digest,
            "state": state,
            "level": "content",
            **fields,
        }
    )
    writer.run.operations.mkdir(exist_ok=True)
    with (writer.run.operations / "node-a-1.jsonl").open("ab") as file:
        file.write(encode_operation(entry))


def test_newest_first_and_the_last_verified_is_known(writer):
    writer.checkpoint(10)
    writer.checkpoint(20)
    writer.checkpoint(30, verified=False)

    checkpoints = Watcher(writer.run).run.checkpoints

    assert [(r.number, r.stage) for r in checkpoints.rows()] == [
        (30, "published"),
        (20, "verified"),
        (10, "verified"),
    ]
    assert checkpoints.last_verified().number == 20
    assert checkpoints.newest().why_not == "it was never verified"


def test_an_operator_who_found_damage_is_believed(writer):
    writer.checkpoint(10)
    operation(writer, 10, "damaged", text="state.pt, byte 17")

    (row,) = rows(writer)

    assert (row.stage, row.is_resumable) == ("damaged", False)
    assert row.why_not == "ada@node-a found it damaged: state.pt, byte 17"


def test_an_operator_who_read_every_byte_verifies(writer):
    writer.checkpoint(10, verified=False)
    operation(writer, 10, "sound")

    (row,) = rows(writer)

    assert (row.stage, row.is_resumable, row.check.by) == (
        "verified",
        True,
        "ada@node-a",
    )


def test_who_only_looked_at_headers_verifies_nothing(writer):
    writer.checkpoint(10, verified=False)
    operation(writer, 10, "sound", level="structure")

    assert rows(writer)[0].stage == "published"


def test_the_newer_of_two_verifications_counts(writer):
    writer.checkpoint(10)
    operation(writer, 10, "damaged", later=-10)

    assert rows(writer)[0].stage == "verified"


def test_a_verification_of_other_bytes_says_nothing(writer):
    writer.checkpoint(10)
    operation(writer, 10, "damaged", digest="blake3:" + "0" * 64)

    assert rows(writer)[0].stage == "verified"


@pytest.mark.parametrize("stage", ["cancelled", "failed", "started"])
def test_a_verification_that_did_not_end_says_nothing(writer, stage):
    writer.checkpoint(10)
    operation(writer, 10, "damaged", stage=stage)

    assert rows(writer)[0].stage == "verified"


def test_events_tell_how_long_a_save_took(writer):
    path = writer.checkpoint(10)
    _, digest = read_manifest(path)
    writer.emit(
        0,
        ev.CheckpointPublished,
        checkpoint="step-00000010",
        digest=digest,
        size_bytes=4_096,
        serialize_ns=4,
        write_ns=5,
        digest_ns=3,
        fsync_ns=6,
        publish_ns=7,
    )

    (row,) = rows(writer)

    assert [ns for _, ns in row.save_phases] == [4, 5, 3, 6, 7]
    assert row.save_ns == 25


def test_events_of_other_bytes_under_the_same_name_are_left_out(writer):
    writer.checkpoint(10)
    writer.emit(
        0,
        ev.CheckpointPublished,
        checkpoint="step-00000010",
        digest="blake3:other",
        size_bytes=1,
        write_ns=5,
    )

    assert rows(writer)[0].write_ns is None


def test_a_pruned_checkpoint_stays_in_the_list(writer):
    writer.checkpoint(20)
    writer.emit(0, ev.CheckpointPruned, checkpoint="step-00000010", freed_bytes=77)

    found = [(row.number, row.stage, row.size_bytes) for row in rows(writer)]

    assert found == [(20, "verified", 4_096), (10, "pruned", 77)]


def test_what_was_found_of_a_checkpoint_is_known_after_it_was_pruned(writer):
    name = "step-00000010"
    found = {"digest": "blake3:00", "state": "sound", "level": "content"}
    writer.emit(
        0, ev.CheckpointVerified, checkpoint=name, verify_ns=5, by="save", **found
    )
    writer.emit(0, ev.CheckpointPruned, checkpoint=name, freed_bytes=77)

    (row,) = rows(writer)

    assert (row.stage, row.check.state, row.check.by) == ("pruned", "sound", "save")
    assert row.check.time_ns == writer.time_ns


def test_damage_that_was_found_before_a_checkpoint_was_pruned_stays_known(writer):
    path = writer.checkpoint(10)
    _, digest = read_manifest(path)
    writer.emit(
        0,
        ev.CheckpointPublished,
        checkpoint=path.name,
        digest=digest,
        size_bytes=1,
        write_ns=5,
    )
    operation(writer, 10, "damaged")
    shutil.rmtree(path)
    writer.emit(0, ev.CheckpointPruned, checkpoint=path.name, freed_bytes=77)

    (row,) = rows(writer)

    assert (row.stage, row.check.state) == ("pruned", "damaged")


def test_who_resumed_from_it_is_told(writer):
    writer.checkpoint(10)
    writer.begin()
    for rank in range(2):
        writer.emit(
            rank,
            ev.CheckpointLoaded,
            checkpoint="step-00000010",
            digest="d",
            load_ns=1,
            resumed_step=10,
        )

    assert rows(writer)[0].loaded_in == (2,)


def test_what_was_set_aside_says_why_and_stands_behind(writer):
    writer.checkpoint(10)
    writer.checkpoint(20)
    path = writer.run.checkpoints / "step-00000020"
    path.rename(path.with_name(".superseded-0002-step-00000020"))

    found = [(row.stage, row.is_resumable) for row in rows(writer)]

    assert found == [("superseded", False), ("verified", True)]


def test_a_refusal_is_remembered(writer):
    writer.emit(
        0, ev.CheckpointRefused, checkpoint="step-00000010", reason="disk full", step=10
    )

    refusal = Watcher(writer.run).run.checkpoints.last_refusal

    assert (refusal.checkpoint, refusal.reason, refusal.step) == (
        "step-00000010",
        "disk full",
        10,
    )


def test_the_pointer_is_marked(writer):
    writer.checkpoint(10)
    writer.run.latest.write_text("step-00000010\n")

    assert rows(writer)[0].is_latest


def test_rows_hold_no_manifest(writer):
    writer.checkpoint(10)

    (fact,) = Watcher(writer.run).run.directory.checkpoints

    assert not any(isinstance(value, msgspec.Struct) for value in fact[:11])
