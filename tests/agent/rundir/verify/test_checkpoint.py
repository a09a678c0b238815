import os

import pytest
import torch

from agent.rundir.layout import MANIFEST_NAME, STATE_NAME
from agent.rundir.manifest import manifest_digest, parse_manifest
from agent.rundir.seal import seal
from agent.rundir.verify.path import verify_path
from agent.rundir.verify.verdict import Level, State
from tests.agent.rundir.verify.archives import (
    blake3_digest,
    places,
    saved,
    sha256_digest,
    small_archive,
    write_checkpoint,
    write_small_checkpoint,
)


@pytest.fixture
def checkpoint(tmp_path):
    directory = tmp_path / "runs" / "ddp-7" / "checkpoints" / "step-00001200"
    write_small_checkpoint(directory)
    return directory


def edit_manifest(checkpoint, old, new):
    path = checkpoint / MANIFEST_NAME
    data = path.read_bytes()
    assert old in data
    path.write_bytes(data.replace(old, new, 1))


@pytest.mark.parametrize("level", [Level.STRUCTURE, Level.CONTENT])
@pytest.mark.parametrize("sealed", [True, False])
def test_a_checkpoint_as_published_is_sound(level, sealed, tmp_path):
    directory = tmp_path / "step-00001200"
    write_small_checkpoint(directory, sealed=sealed)

    verdict = verify_path(directory, level)

    assert verdict.state is State.SOUND
    assert verdict.findings == ()
    assert verdict.format == "checkpoint"
    assert verdict.digest == manifest_digest((directory / MANIFEST_NAME).read_bytes())
    assert verdict.num_bytes == (directory / STATE_NAME).stat().st_size


@pytest.mark.parametrize("digest_of", [sha256_digest, blake3_digest])
def test_digests_of_both_kinds_are_checked(digest_of, tmp_path):
    directory = tmp_path / "step-00001200"
    write_checkpoint(directory, {"a.bin": b"abc"}, digest_of=digest_of)
    before = verify_path(directory)
    (directory / "a.bin").write_bytes(b"abd")

    after = verify_path(directory)

    assert before.state is State.SOUND
    assert after.state is State.DAMAGED
    assert after.findings[0].expected == digest_of(b"abc")
    assert after.findings[0].found == digest_of(b"abd")


def test_a_damaged_tensor_is_named_with_record_and_offset(checkpoint):
    data = bytearray(small_archive())
    place = next(p for p in places(data) if p.name == "data/3")
    data[place.content + 5] ^= 1
    (checkpoint / STATE_NAME).write_bytes(data)

    verdict = verify_path(checkpoint)

    first = verdict.findings[0]
    assert verdict.state is State.DAMAGED
    assert (first.file, first.record, first.tensor) == (
        STATE_NAME,
        "data/3",
        "model.bias",
    )
    assert first.offset == place.content
    assert first.expected != first.found


def test_a_damaged_tensor_of_a_bare_file_is_named_from_its_pickle(tmp_path):
    path = tmp_path / "model.pt"
    data = bytearray(small_archive())
    place = next(p for p in places(data) if p.name == "data/0")
    data[place.content] ^= 1
    path.write_bytes(data)

    verdict = verify_path(path)

    assert verdict.findings[0].tensor == "model.weight"
    assert "tensor `model.weight`" in verdict.findings[0].message


def test_a_damaged_pickle_names_no_tensors(tmp_path):
    path = tmp_path / "model.pt"
    data = bytearray(small_archive())
    by_name = {place.name: place for place in places(data)}
    name_in_pickle = data.index(b"weight", by_name["data.pkl"].content)
    data[name_in_pickle] ^= 1
    data[by_name["data/0"].content] ^= 1
    path.write_bytes(data)

    verdict = verify_path(path)

    assert [f.record for f in verdict.findings] == ["data.pkl", "data/0"]
    assert [f.tensor for f in verdict.findings] == [None, None]


def test_a_replaced_file_of_the_same_size_was_changed(checkpoint):
    other = {
        "model": {
            "weight": torch.arange(1, 21.0),
            "empty": torch.empty(0),
            "half": torch.full((), 3, dtype=torch.bfloat16),
            "bias": torch.arange(20, 40.0),
        },
        "step": 3,
    }
    (checkpoint / STATE_NAME).write_bytes(saved(other))

    verdict = verify_path(checkpoint)

    assert verdict.state is State.CHANGED_SINCE_SAVE
    assert "digest" in verdict.findings[0].message


def test_a_replaced_file_of_another_size_was_changed(checkpoint):
    (checkpoint / STATE_NAME).write_bytes(saved({"other": torch.ones(7)}))

    verdict = verify_path(checkpoint, Level.STRUCTURE)

    assert verdict.state is State.CHANGED_SINCE_SAVE


def test_a_cut_file_is_truncated(checkpoint):
    os.truncate(checkpoint / STATE_NAME, 1000)

    verdict = verify_path(checkpoint, Level.STRUCTURE)

    assert verdict.state is State.TRUNCATED
    assert "of at least" in verdict.findings[0].message


def test_an_empty_file_is_truncated(checkpoint):
    os.truncate(checkpoint / STATE_NAME, 0)

    assert verify_path(checkpoint).state is State.TRUNCATED


def test_a_missing_file_is_damage(checkpoint):
    (checkpoint / STATE_NAME).unlink()

    verdict = verify_path(checkpoint)

    assert verdict.state is State.DAMAGED
    assert verdict.findings[0].file == STATE_NAME


def test_a_fifo_in_place_of_a_file_is_damage_and_does_not_hang(checkpoint):
    (checkpoint / STATE_NAME).unlink()
    os.mkfifo(checkpoint / STATE_NAME)

    assert verify_path(checkpoint).state is State.DAMAGED


def test_a_fifo_in_place_of_the_manifest_does_not_hang(checkpoint):
    (checkpoint / MANIFEST_NAME).unlink()
    os.mkfifo(checkpoint / MANIFEST_NAME)

    assert verify_path(checkpoint).state is State.DAMAGED


def test_a_missing_manifest_is_damage_where_the_name_promises_one(checkpoint):
    (checkpoint / MANIFEST_NAME).unlink()
    partial = checkpoint.rename(checkpoint.with_name(".partial-1-step-00001200"))

    unpublished = verify_path(partial)
    published = verify_path(partial.rename(checkpoint))

    assert unpublished.state is State.UNREADABLE
    assert published.state is State.DAMAGED


def test_an_unlisted_file_is_mentioned_and_changes_nothing(checkpoint):
    (checkpoint / "notes.txt").write_text("best so far")

    verdict = verify_path(checkpoint)

    assert verdict.state is State.SOUND
    assert [f.file for f in verdict.findings] == ["notes.txt"]


def test_many_unlisted_files_are_counted(checkpoint):
    for number in range(50):
        (checkpoint / f"{number:02}.txt").touch()

    verdict = verify_path(checkpoint)

    assert len(verdict.findings) == 21
    assert "30 more files" in verdict.findings[-1].message


def test_files_in_folders_are_verified(tmp_path):
    directory = tmp_path / "step-00001200"
    write_checkpoint(directory, {"ranks/0.bin": b"abc", "ranks/1.bin": b"def"})
    sound = verify_path(directory)
    (directory / "ranks" / "1.bin").write_bytes(b"dEf")

    damaged = verify_path(directory)

    assert sound.state is State.SOUND
    assert damaged.state is State.DAMAGED
    assert damaged.findings[0].file == "ranks/1.bin"


def test_formats_without_checksums_are_sound_by_their_digest(tmp_path):
    legacy = saved({"w": torch.ones(3)}, _use_new_zipfile_serialization=False)
    directory = tmp_path / "step-00001200"
    write_checkpoint(directory, {"old.pt": legacy, "config.json": b"{}"})

    assert verify_path(directory).state is State.SOUND
    assert verify_path(directory, Level.STRUCTURE).state is State.SOUND


@pytest.mark.parametrize("level", [Level.STRUCTURE, Level.CONTENT])
def test_files_of_other_kinds_are_only_bytes_with_a_digest(level, tmp_path):
    files = {
        "DONE": b"",
        "notes.zip": b"PK\3\4 this is no archive",
        "table.dat": (2).to_bytes(8, "little") + b"{",
        "events": b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46",
    }
    directory = tmp_path / "step-00001200"
    write_checkpoint(directory, files)

    verdict = verify_path(directory, level)

    assert verdict.state is State.SOUND, verdict.findings


def test_a_file_that_was_published_damaged_is_still_damaged(tmp_path):
    data = bytearray(small_archive())
    data[places(data)[0].content] ^= 1
    directory = tmp_path / "step-00001200"
    write_checkpoint(directory, {STATE_NAME: bytes(data)})

    verdict = verify_path(directory)

    assert verdict.state is State.DAMAGED
    assert "when it was published" in verdict.findings[-1].message


@pytest.mark.parametrize(
    ("digest", "state"),
    [
        (b"xxh3:00112233445566778899", State.NO_CHECKSUM),
        (b"sha256:00", State.DAMAGED),
        (b"nonsense", State.DAMAGED),
    ],
)
def test_digests_of_other_kinds(digest, state, tmp_path):
    directory = tmp_path / "step-00001200"
    write_checkpoint(directory, {"a.bin": b"abc"}, sealed=False)
    entry = parse_manifest((directory / MANIFEST_NAME).read_bytes(), directory).files[0]
    edit_manifest(directory, entry.digest.encode(), digest)

    assert verify_path(directory).state is state


@pytest.mark.parametrize(
    ("old", "new", "state"),
    [
        (b'"step": 1200', b'"step": 1300', State.CHANGED_SINCE_SAVE),
        (b'"step": 1200', b'"step":  1200', State.CHANGED_SINCE_SAVE),
        (b'"reason"', b'"raisin"', State.DAMAGED),
        (b'"has_rng"', b'"has_rug"', State.CHANGED_SINCE_SAVE),
        (b'"schema": 1', b'"schema": 2', State.UNREADABLE),
        (b'"name": "state.pt"', b'"name": "../../x"', State.DAMAGED),
        (b'"size_bytes": ', b'"size_bytes": -', State.DAMAGED),
    ],
)
def test_an_edited_manifest_is_not_believed(old, new, state, tmp_path):
    directory = tmp_path / "step-00001200"
    write_small_checkpoint(directory, sealed=False, has_rng=True)
    edit_manifest(directory, old, new)

    verdict = verify_path(directory)

    assert verdict.state is state
    assert verdict.findings[0].file == MANIFEST_NAME


def test_a_manifest_of_a_newer_version_is_not_judged(checkpoint):
    path = checkpoint / MANIFEST_NAME
    data = path.read_bytes().replace(b'"schema": 1', b'"schema": 9', 1)
    path.write_bytes(seal(data[: data.rindex(b",")] + b"\n}\n"))

    verdict = verify_path(checkpoint)

    assert verdict.state is State.UNREADABLE
    assert "newer version" in verdict.advice


def test_a_broken_seal_is_noticed(checkpoint):
    edit_manifest(checkpoint, b'"reason": "interval"', b'"reason": "intervaL"')

    assert verify_path(checkpoint).state is State.CHANGED_SINCE_SAVE


def test_a_cut_manifest_is_truncated(checkpoint):
    os.truncate(checkpoint / MANIFEST_NAME, 200)

    assert verify_path(checkpoint).state is State.TRUNCATED


def test_a_label_step_is_what_the_name_says(tmp_path):
    directory = tmp_path / "step-00000050"
    write_small_checkpoint(directory, step=49, label_step=50)

    assert verify_path(directory).state is State.SOUND


def test_a_superseded_checkpoint_is_verified_like_any(checkpoint):
    aside = checkpoint.rename(checkpoint.with_name(".superseded-0001-step-00001200"))

    assert verify_path(aside).state is State.SOUND


def test_the_advice_names_the_checkpoint_before(checkpoint):
    write_small_checkpoint(checkpoint.with_name("step-00001100"), step=1100)
    write_small_checkpoint(checkpoint.with_name("step-00000900"), step=900)
    (checkpoint / STATE_NAME).unlink()

    verdict = verify_path(checkpoint)

    run_dir = checkpoint.parent.parent
    assert f"opsdash resume {run_dir} --from step-00001100" in verdict.advice


def test_findings_are_bounded(tmp_path):
    files = {f"{number}.bin": b"x" for number in range(150)}
    directory = tmp_path / "step-00001200"
    write_checkpoint(directory, files)
    for name in files:
        (directory / name).write_bytes(b"y")

    verdict = verify_path(directory)

    assert len(verdict.findings) == 101
    assert verdict.findings[-1].message == "50 more findings not listed"
