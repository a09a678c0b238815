import os
from pathlib import Path

import pytest

from agent.rundir.checkpoints import (
    Stage,
    Verification,
    encode_verification,
    find_checkpoint,
    list_checkpoints,
    newest_resumable,
    read_latest,
    resumable,
)
from agent.rundir.errors import NoCheckpointError
from agent.rundir.layout import RunDir, checkpoint_name
from agent.rundir.manifest import (
    FileEntry,
    Manifest,
    encode_manifest,
    manifest_digest,
    read_manifest,
)


def publish(run: RunDir, name: str, *, content: bytes = b"x" * 10) -> str:
    folder = run.checkpoints / name
    folder.mkdir(parents=True)
    (folder / "state.pt").write_bytes(content)
    entry = FileEntry(name="state.pt", size_bytes=len(content), digest="blake3:00")
    data = encode_manifest(
        Manifest(
            schema=1, run_id="r", attempt=1, created_ns=1, reason="test", files=(entry,)
        )
    )
    (folder / "manifest.json").write_bytes(data)
    return manifest_digest(data)


def log(run: RunDir, name: str, digest: str, state: str = "sound", **fields) -> None:
    line = encode_verification(
        Verification(
            checkpoint=name,
            digest=digest,
            time_ns=1,
            state=state,
            level="content",
            by="save",
            **fields,
        )
    )
    with run.verified.open("ab") as file:
        file.write(line)


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return RunDir(tmp_path)


def test_the_newest_verified_one_is_what_a_resume_takes(run):
    for step in (100, 9, 20):
        name = checkpoint_name(step)
        log_digest = publish(run, name)
        if step != 100:
            log(run, name, log_digest)

    entries = list_checkpoints(run)

    assert [e.number for e in entries] == [100, 20, 9]
    assert [e.stage for e in entries] == [
        Stage.PUBLISHED,
        Stage.VERIFIED,
        Stage.VERIFIED,
    ]
    assert entries[0].why_not == "it was never verified"
    assert [e.number for e in resumable(entries)] == [20, 9]
    assert newest_resumable(run).number == 20


def test_a_later_verdict_counts_more_than_an_earlier_one(run):
    digest = publish(run, checkpoint_name(1))
    log(run, checkpoint_name(1), digest)
    log(run, checkpoint_name(1), digest, state="damaged")

    [entry] = list_checkpoints(run)

    assert entry.stage is Stage.DAMAGED
    assert entry.why_not == "the last verification found it damaged"


def test_a_verdict_on_other_bytes_of_the_same_name_does_not_count(run):
    publish(run, checkpoint_name(1))
    log(run, checkpoint_name(1), "blake3:of-a-former-manifest")

    assert list_checkpoints(run)[0].stage is Stage.PUBLISHED


def test_a_file_of_another_size_is_seen_without_reading_it(run):
    digest = publish(run, checkpoint_name(1))
    log(run, checkpoint_name(1), digest)
    os.truncate(run.checkpoints / checkpoint_name(1) / "state.pt", 3)

    [entry] = list_checkpoints(run)

    assert entry.stage is Stage.DAMAGED
    assert entry.why_not == "`state.pt` has 3 bytes, its manifest says 10"


def test_a_missing_file_and_a_missing_manifest_are_named(run):
    publish(run, checkpoint_name(1))
    publish(run, checkpoint_name(2))
    (run.checkpoints / checkpoint_name(1) / "manifest.json").unlink()
    (run.checkpoints / checkpoint_name(2) / "state.pt").unlink()

    second, first = list_checkpoints(run)

    assert "manifest.json" in first.why_not
    assert second.why_not == "`state.pt`: No such file or directory"


def test_what_is_set_aside_is_shown_and_never_resumed(run):
    for name in (
        ".partial-step-00000005",
        ".superseded-0002-step-00000004",
        ".quarantine-step-00000003",
        "my-own-notes",
    ):
        publish(run, name)

    stages = {e.path.name: e.stage for e in list_checkpoints(run)}

    assert stages == {
        ".partial-step-00000005": Stage.WRITING,
        ".superseded-0002-step-00000004": Stage.SUPERSEDED,
        ".quarantine-step-00000003": Stage.QUARANTINED,
        "my-own-notes": Stage.FOREIGN,
    }
    with pytest.raises(NoCheckpointError, match="was not written to the end"):
        newest_resumable(run)


def test_a_set_aside_checkpoint_is_found_by_either_name(run):
    publish(run, ".superseded-0002-step-00000004")

    found = find_checkpoint(run, "step-00000004")

    assert found.stage is Stage.SUPERSEDED
    with pytest.raises(NoCheckpointError, match="no checkpoint `step-00000005`"):
        find_checkpoint(run, "step-00000005")


@pytest.mark.parametrize(
    ("prefix", "stage"),
    [
        (".superseded-0002-", Stage.SUPERSEDED),
        (".quarantine-", Stage.QUARANTINED),
        (".partial-", Stage.WRITING),
    ],
)
def test_a_step_that_was_set_aside_twice_is_still_that_step(run, prefix, stage):
    publish(run, f"{prefix}step-00000004.2")

    [entry] = list_checkpoints(run)

    assert (entry.stage, entry.name) == (stage, "step-00000004")
    assert entry.number == 4


def test_pins_follow_the_last_word(run):
    digest = publish(run, checkpoint_name(1))
    log(run, checkpoint_name(1), digest)
    log(run, checkpoint_name(1), digest, pinned=True)

    assert list_checkpoints(run)[0].is_pinned
    assert list_checkpoints(run)[0].stage is Stage.VERIFIED

    log(run, checkpoint_name(1), digest, pinned=False)
    assert not list_checkpoints(run)[0].is_pinned


def test_a_manifest_that_points_outside_is_refused(run):
    folder = run.checkpoints / checkpoint_name(1)
    folder.mkdir(parents=True)
    entry = FileEntry(name="../../../etc/passwd", size_bytes=1, digest="blake3:00")
    manifest = Manifest(
        schema=1, run_id="r", attempt=1, created_ns=1, reason="t", files=(entry,)
    )
    (folder / "manifest.json").write_bytes(encode_manifest(manifest))

    [found] = list_checkpoints(run)

    assert "outside the checkpoint" in found.why_not


def test_a_manifest_survives_being_written_and_read(run):
    digest = publish(run, checkpoint_name(7))

    manifest, found = read_manifest(run.checkpoints / checkpoint_name(7))

    assert found == digest
    assert manifest.size_bytes == 10


@pytest.mark.parametrize("content", [b"", b"../x", b"step-1", b"\xff", b"x" * 5000])
def test_a_latest_that_makes_no_sense_is_none(run, content):
    run.checkpoints.mkdir()
    run.latest.write_bytes(content)

    assert read_latest(run) is None


def test_a_torn_or_foreign_line_in_the_log_is_passed_over(run):
    digest = publish(run, checkpoint_name(1))
    run.verified.write_bytes(b"\xff\n[]\n")
    log(run, checkpoint_name(1), digest)
    with run.verified.open("ab") as file:
        file.write(b'{"checkpoint": "ste')

    assert list_checkpoints(run)[0].stage is Stage.VERIFIED
