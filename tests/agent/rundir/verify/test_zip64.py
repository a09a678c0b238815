"""Archives beyond 4 GiB, written sparsely by torch's own writer."""

import io
import os
import pickle

import pytest
import torch

from agent.rundir.verify.path import verify_path
from agent.rundir.verify.verdict import Level, State

GIB4 = 1 << 32
SIZES = {
    "data/0": GIB4 + 100,
    "data/1": 4000,
    "data/2": GIB4 - 1,
    "data/3": 0,
    "data/4": 77,
    "data/5": GIB4 - 2,
}


class StoragePickler(pickle.Pickler):
    """Writes names of records as persistent ids, as torch does."""

    def persistent_id(self, value):
        if not (isinstance(value, str) and value in SIZES):
            return None
        key = value.removeprefix("data/")
        return ("storage", torch.ByteStorage, key, "cpu", SIZES[value])


def write_sparsely(path, *, with_names):
    """Write 12 GiB of holes: torch makes every header, contents are left out."""
    names = io.BytesIO()
    StoragePickler(names, 2).dump(list(SIZES) if with_names else [])
    writer = torch._C.PyTorchFileWriter(str(path))
    writer.write_record("data.pkl", names.getvalue(), len(names.getvalue()))
    for name, size in SIZES.items():
        writer.write_record_metadata(name, size)
    writer.write_end_of_file()
    assert path.stat().st_size > 3 * GIB4
    assert path.stat().st_blocks * 512 < 1 << 20


@pytest.fixture
def sparse_archive(tmp_path):
    path = tmp_path / "big.pt"
    write_sparsely(path, with_names=True)
    return path


def test_long_headers_are_made_again_byte_by_byte(sparse_archive):
    verdict = verify_path(sparse_archive, Level.STRUCTURE)

    assert verdict.state is State.NO_CHECKSUM
    assert [f.message for f in verdict.findings] == [
        "no checksum recorded for 5 records"
    ]


def test_flips_in_long_headers_are_found(sparse_archive):
    with sparse_archive.open("r+b", buffering=0) as file:
        size = sparse_archive.stat().st_size
        data = os.pread(file.fileno(), 4096, size - 4096)
        start = size - 4096 + data.index(b"PK\1\2")
        unnoticed = []
        for offset in range(start, size):
            old = os.pread(file.fileno(), 1, offset)
            os.pwrite(file.fileno(), bytes([old[0] ^ 64]), offset)
            verdict = verify_path(sparse_archive, Level.STRUCTURE)
            os.pwrite(file.fileno(), old, offset)
            if verdict.exit_code != 2:
                unnoticed.append(offset - start)

    assert unnoticed == []


@pytest.mark.parametrize("size", [GIB4 + 50, GIB4 + 5000, 2 * GIB4 + 9000])
def test_a_cut_beyond_four_gibibytes_is_a_cut(size, sparse_archive):
    os.truncate(sparse_archive, size)

    verdict = verify_path(sparse_archive, Level.STRUCTURE)

    assert verdict.state is State.TRUNCATED


def test_appended_bytes_are_found_without_a_search(sparse_archive):
    end = sparse_archive.stat().st_size
    with sparse_archive.open("ab") as file:
        file.write(b"xyz")

    verdict = verify_path(sparse_archive, Level.STRUCTURE)

    assert verdict.state is State.DAMAGED
    assert verdict.findings[0].offset == end


@pytest.mark.soak
def test_without_sizes_a_missing_end_is_damage_after_a_bounded_search(tmp_path):
    path = tmp_path / "big.pt"
    write_sparsely(path, with_names=False)
    os.truncate(path, path.stat().st_size - 5)

    verdict = verify_path(path, Level.STRUCTURE)

    assert verdict.state is State.DAMAGED
    assert "of unknown size" in verdict.findings[0].message


@pytest.mark.soak
def test_content_beyond_four_gibibytes_is_checked(tmp_path):
    path = tmp_path / "big.pt"
    torch.save(
        {"w": torch.zeros(GIB4 + 9, dtype=torch.uint8), "b": torch.ones(5)}, path
    )
    sound = verify_path(path)
    with path.open("r+b") as file:
        file.seek(GIB4 - 1)
        file.write(b"\1")

    damaged = verify_path(path)

    assert sound.state is State.SOUND, sound.findings
    assert damaged.state is State.DAMAGED
    assert damaged.findings[0].tensor == "w"
