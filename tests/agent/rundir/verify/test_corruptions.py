"""Nothing that happens to an archive goes unnoticed, and nothing else is noticed."""

import random

import pytest
import torch
from torch.utils.serialization import config

from agent.rundir.layout import MANIFEST_NAME, STATE_NAME
from agent.rundir.verify.path import verify_path
from agent.rundir.verify.verdict import EXIT_DAMAGED, Level, State
from tests.agent.rundir.verify.archives import (
    SMALL_STATE,
    build,
    contents,
    saved,
    small_archive,
    structural_bytes,
    write_small_checkpoint,
)
from tests.agent.rundir.verify.corruptions import CORRUPTIONS, flipped

NUM_FLIPS = 200
CHANGED = {
    "a_checksum_zeroed_everywhere",
    "a_record_added",
    "a_record_added_at_the_end",
    "a_record_removed",
    "a_small_record_edited_with_its_checksum",
    "a_tensor_edited_in_the_descriptor_and_directory",
    "a_tensor_edited_with_its_checksum",
    "the_pickle_edited_with_its_checksum",
    "the_serialization_id_edited_with_its_checksum",
    "the_serialization_id_removed",
    "two_tensors_swapped_with_their_checksums",
}
TRUNCATED = {
    "cut_anywhere",
    "cut_before_the_directory",
    "cut_between_records",
    "the_last_byte_missing",
}


def expected_state(kind: str) -> State:
    if kind in CHANGED:
        return State.CHANGED_SINCE_SAVE
    return State.TRUNCATED if kind in TRUNCATED else State.DAMAGED


def corrupted(kind: str, seed: int) -> bytes:
    data = small_archive()
    broken = CORRUPTIONS[kind](data, random.Random(f"{kind} {seed}"))
    assert broken != data
    return broken


def test_there_are_many_kinds_of_corruption():
    assert len(CORRUPTIONS) >= 20


def test_an_archive_built_from_its_records_is_the_one_that_torch_wrote():
    data = small_archive()

    assert build(contents(data)) == data


@pytest.mark.parametrize("kind", CORRUPTIONS)
@pytest.mark.parametrize("seed", range(5))
def test_each_kind_is_found_without_a_manifest(kind, seed, tmp_path):
    path = tmp_path / "model.pt"
    path.write_bytes(corrupted(kind, seed))

    verdict = verify_path(path)

    assert verdict.state is expected_state(kind)
    assert verdict.exit_code == EXIT_DAMAGED
    assert verdict.findings


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_each_kind_is_found_in_a_checkpoint(kind, tmp_path):
    checkpoint = tmp_path / "step-00001200"
    write_small_checkpoint(checkpoint)
    (checkpoint / STATE_NAME).write_bytes(corrupted(kind, 0))

    verdict = verify_path(checkpoint)

    assert verdict.state is expected_state(kind)
    assert verdict.findings[0].file == STATE_NAME


def sweep(path, target, offsets, bits=range(8), level=Level.CONTENT):
    """Flip bits one at a time; return those that leave the verdict sound."""
    data = bytearray(target.read_bytes())
    unnoticed = []
    with target.open("r+b", buffering=0) as file:
        for offset in offsets:
            for bit in bits:
                file.seek(offset)
                file.write(bytes([data[offset] ^ 1 << bit]))
                verdict = verify_path(path, level, num_threads=1)
                if verdict.exit_code != EXIT_DAMAGED:
                    unnoticed.append((offset, bit, verdict.state))
            file.seek(offset)
            file.write(data[offset : offset + 1])
    assert verify_path(path, level).state is State.SOUND
    return unnoticed


@pytest.mark.parametrize("level", [Level.STRUCTURE, Level.CONTENT])
def test_every_bit_of_every_structural_byte_counts(tmp_path, level):
    path = tmp_path / "model.pt"
    path.write_bytes(small_archive())

    offsets = structural_bytes(path.read_bytes())
    bits = range(8) if level is Level.CONTENT else (0, 5)
    unnoticed = sweep(path, path, offsets, bits, level)

    assert unnoticed == []


def test_every_byte_of_content_counts(tmp_path):
    path = tmp_path / "model.pt"
    path.write_bytes(small_archive())
    structure = set(structural_bytes(path.read_bytes()))
    content = [i for i in range(path.stat().st_size) if i not in structure]

    unnoticed = sweep(path, path, content, bits=(0, 7))

    assert unnoticed == []


def test_every_bit_of_a_sealed_manifest_counts(tmp_path):
    checkpoint = tmp_path / "step-00001200"
    write_small_checkpoint(checkpoint, tensors=())
    manifest = checkpoint / MANIFEST_NAME

    unnoticed = sweep(checkpoint, manifest, range(manifest.stat().st_size))

    assert unnoticed == []


def test_structure_of_a_checkpoint_is_enough_for_every_structural_byte(tmp_path):
    checkpoint = tmp_path / "step-00001200"
    write_small_checkpoint(checkpoint)
    state = checkpoint / STATE_NAME
    offsets = structural_bytes(state.read_bytes())

    unnoticed = sweep(checkpoint, state, offsets, bits=(3,), level=Level.STRUCTURE)

    assert unnoticed == []


def test_random_flips_are_all_found(tmp_path):
    path = tmp_path / "model.pt"
    data = small_archive()
    rng = random.Random(0)

    unnoticed = []
    for _ in range(NUM_FLIPS):
        offset = rng.randrange(len(data))
        path.write_bytes(flipped(data, offset, rng))
        if verify_path(path).exit_code != EXIT_DAMAGED:
            unnoticed.append(offset)

    assert unnoticed == []


def test_a_cut_is_told_as_a_cut_at_every_length(tmp_path):
    path = tmp_path / "model.pt"
    data = small_archive()

    states = set()
    for size in range(len(data)):
        path.write_bytes(data[:size])
        states.add(verify_path(path, Level.STRUCTURE).state)

    assert states == {State.TRUNCATED}


@pytest.mark.parametrize("alignment", [1, 512, 4096])
def test_a_cut_is_told_as_a_cut_with_any_alignment(alignment, tmp_path):
    path = tmp_path / "model.pt"
    with config.patch({"save.storage_alignment": alignment}):
        torch.save(SMALL_STATE, path)
    data = path.read_bytes()

    states = set()
    for size in range(1, len(data), max(1, len(data) // 200)):
        path.write_bytes(data[:size])
        states.add(verify_path(path).state)

    assert states == {State.TRUNCATED}


@pytest.mark.soak
def test_five_thousand_flips_and_every_kind_a_hundred_times(tmp_path):
    path = tmp_path / "model.pt"
    generator = torch.Generator().manual_seed(0)
    shapes = [(64, 64), (64,), (64, 64), (), (0,), (7, 5)]
    state = {str(i): torch.randn(s, generator=generator) for i, s in enumerate(shapes)}
    data, rng = saved({"model": state, "step": 9}), random.Random(1)

    unnoticed = []
    for _ in range(5000):
        offset = rng.randrange(len(data))
        path.write_bytes(flipped(data, offset, rng))
        if verify_path(path).exit_code != EXIT_DAMAGED:
            unnoticed.append(offset)
    for kind, corrupt in CORRUPTIONS.items():
        for _ in range(100):
            path.write_bytes(corrupt(data, rng))
            if verify_path(path).exit_code != EXIT_DAMAGED:
                unnoticed.append(kind)

    assert unnoticed == []
