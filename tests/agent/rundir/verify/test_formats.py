"""Legacy files, safetensors, shards and foreign archives, as far as they allow."""

import json
import re
import struct
import warnings
import zipfile

import pytest
import safetensors.torch
import torch
from torch.distributed import checkpoint as dcp

from agent.rundir.verify.path import verify_path
from agent.rundir.verify.verdict import Level, State
from tests.agent.rundir.verify.archives import (
    SMALL_STATE,
    contents,
    saved,
    small_archive,
    write_checkpoint,
)


def legacy_file(state=SMALL_STATE):
    return saved(state, _use_new_zipfile_serialization=False)


def verdict_of(tmp_path, data, name="model.pt", level=Level.CONTENT):
    path = tmp_path / name
    path.write_bytes(data)
    return verify_path(path, level)


class TestLegacy:
    def test_a_whole_file_has_no_checksum(self, tmp_path):
        verdict = verdict_of(tmp_path, legacy_file())

        assert verdict.state is State.NO_CHECKSUM
        assert verdict.format == "torch_legacy"
        assert len(verdict.findings) == 1

    def test_a_cut_is_found_at_every_length(self, tmp_path):
        data = legacy_file()

        states = {verdict_of(tmp_path, data[:n]).state for n in range(4, len(data))}

        assert states == {State.TRUNCATED}

    def test_the_missing_bytes_are_counted(self, tmp_path):
        data = legacy_file()

        verdict = verdict_of(tmp_path, data[:-10])

        assert f"of {len(data):,} bytes" in verdict.findings[0].message

    def test_appended_bytes_are_damage(self, tmp_path):
        verdict = verdict_of(tmp_path, legacy_file() + b"x")

        assert verdict.state is State.DAMAGED

    def test_a_wrong_count_of_elements_is_damage(self, tmp_path):
        data = bytearray(legacy_file({"w": torch.arange(20.0)}))
        at = data.rindex(struct.pack("<Q", 20))
        data[at] = 21

        verdict = verdict_of(tmp_path, data)

        assert verdict.state is State.DAMAGED
        assert verdict.findings[0].offset == at

    def test_a_storage_that_is_not_listed_is_damage(self, tmp_path):
        data = legacy_file({"a": torch.ones(2), "b": torch.ones(2)})
        key = re.findall(rb"X....(\d+)q", data, re.DOTALL)[-1]
        at = data.rindex(key) + len(key) - 1
        other = b"0" if data[at : at + 1] != b"0" else b"1"

        verdict = verdict_of(tmp_path, data[:at] + other + data[at + 1 :])

        assert verdict.state is State.DAMAGED
        assert "list of storages" in verdict.findings[0].message

    @pytest.mark.parametrize("offset", [0, 5, 14])
    def test_a_damaged_magic_number_is_recognised(self, offset, tmp_path):
        data = bytearray(legacy_file())
        data[offset] ^= 4

        verdict = verdict_of(tmp_path, data)

        assert verdict.state is State.DAMAGED
        assert verdict.findings[0].offset == offset

    @pytest.mark.parametrize("protocol", [2, 3, 4, 5])
    def test_whole_modules_in_any_protocol(self, protocol, tmp_path):
        state = {"net": torch.nn.Linear(3, 4), "loose": torch.ones(2).half()}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch cannot find this test's source
            data = saved(
                state, _use_new_zipfile_serialization=False, pickle_protocol=protocol
            )

        verdict = verdict_of(tmp_path, data)

        assert verdict.state is State.NO_CHECKSUM, verdict.findings


def safetensors_file(**tensors):
    return safetensors.torch.save(tensors or {"a": torch.ones(3), "b": torch.eye(2)})


def with_header(header, data):
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(encoded)) + encoded + data


def entry(start, stop, shape=None, dtype="U8"):
    shape = [stop - start] if shape is None else shape
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


ENTRY = json.dumps(entry(0, 1)).encode()


class TestSafetensors:
    @pytest.mark.parametrize(
        "dtype",
        [torch.bool, torch.bfloat16, torch.float64, torch.complex64, torch.uint16],
    )
    def test_a_whole_file_has_no_checksum(self, dtype, tmp_path):
        data = safetensors_file(
            x=torch.zeros(3, 5, dtype=dtype),
            e=torch.zeros(0, dtype=dtype),
            s=torch.zeros((), dtype=dtype),
        )

        verdict = verdict_of(tmp_path, data, "model.safetensors")

        assert verdict.state is State.NO_CHECKSUM, verdict.findings
        assert verdict.format == "safetensors"

    def test_it_is_recognised_by_its_content(self, tmp_path):
        assert verdict_of(tmp_path, safetensors_file(), "x.bin").format == "safetensors"

    def test_with_a_manifest_it_is_sound(self, tmp_path):
        directory = tmp_path / "round-000005"
        files = {"model.safetensors": safetensors_file()}
        write_checkpoint(directory, files, step=None, round_num=5)

        assert verify_path(directory).state is State.SOUND

    def test_a_cut_is_found_at_every_length(self, tmp_path):
        data = safetensors_file()

        states = {
            verdict_of(tmp_path, data[:n], "m.safetensors").state
            for n in range(len(data))
        }

        assert states == {State.TRUNCATED}

    @pytest.mark.parametrize(
        "data",
        [
            safetensors_file() + b"x",
            with_header({"a": entry(0, 4), "b": entry(2, 6)}, bytes(6)),
            with_header({"a": entry(0, 4), "b": entry(6, 8)}, bytes(8)),
            with_header({"a": entry(0, 4, [5])}, bytes(4)),
            with_header({"a": entry(0, 4, [1], "F64")}, bytes(4)),
            with_header({"a": entry(4, 0, [-4])}, bytes(4)),
            with_header({"a": entry(0, 4, [1 << 62] * 9)}, bytes(4)),
            with_header({"a": {"dtype": "U8"}}, b""),
            with_header({"a": 3}, b""),
            with_header(b"[1]", b""),
            with_header(b'{"a":', b""),
            with_header(b'{"a":%b,"a":%b}' % (ENTRY, ENTRY), bytes(1)),
            with_header(b"[" * 100_000, b""),
            with_header(b"\xff\xfe", b""),
            struct.pack("<Q", 1 << 60) + bytes(100),
        ],
    )
    def test_what_does_not_fit_is_damage(self, data, tmp_path):
        verdict = verdict_of(tmp_path, data, "m.safetensors")

        assert verdict.state is State.DAMAGED


class TestForeignZip:
    def repacked(self, tmp_path, compression=zipfile.ZIP_STORED, data=None):
        path = tmp_path / "model.pt"
        with zipfile.ZipFile(path, "w", compression) as archive:
            for name, content in contents(data or small_archive()):
                archive.writestr(f"archive/{name}", content)
        return path

    @pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
    @pytest.mark.parametrize("level", [Level.STRUCTURE, Level.CONTENT])
    def test_a_repacked_archive_is_not_canonical(self, compression, level, tmp_path):
        path = self.repacked(tmp_path, compression)

        verdict = verify_path(path, level)

        assert verdict.state is State.NON_CANONICAL
        assert torch.load(path)["step"] == 3

    def test_a_damaged_record_is_found(self, tmp_path):
        path = self.repacked(tmp_path)
        data = bytearray(path.read_bytes())
        data[data.index(torch.arange(20.0).numpy().tobytes()) + 6] ^= 1
        path.write_bytes(data)

        verdict = verify_path(path)

        assert verdict.state is State.DAMAGED
        assert verdict.findings[-1].record == "data/0"

    def test_a_cut_one_is_truncated(self, tmp_path):
        path = self.repacked(tmp_path)
        path.write_bytes(path.read_bytes()[:-30])

        assert verify_path(path).state is State.TRUNCATED

    def test_a_package_that_is_no_checkpoint_is_unreadable(self, tmp_path):
        path = tmp_path / "notes.docx"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("word/document.xml", "<x/>")

        assert verify_path(path).state is State.UNREADABLE

    @pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
    def test_what_torch_cannot_unpack_is_unreadable(self, method, tmp_path):
        assert verify_path(self.repacked(tmp_path, method)).state is State.UNREADABLE

    def test_records_that_overlap_are_damage(self, tmp_path):
        path = self.repacked(tmp_path, data=saved({"w": torch.zeros(5000)}))
        data = path.read_bytes()
        end = bytearray(data[-22:])
        start = int.from_bytes(end[16:20], "little")
        directory = data[start:-22] * 3
        end[8:12] = (3 * int.from_bytes(end[8:10], "little")).to_bytes(2, "little") * 2
        end[12:16] = len(directory).to_bytes(4, "little")
        path.write_bytes(data[:start] + directory + end)

        assert verify_path(path).state is State.DAMAGED


@pytest.fixture
def shards(tmp_path):
    state = {"w": torch.arange(1000.0), "n": {"b": torch.ones(3)}, "step": 7}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns about a single process
        dcp.save(state, checkpoint_id=tmp_path / "dcp")
    return tmp_path / "dcp"


class TestShards:
    def test_a_bare_directory_has_no_checksum(self, shards):
        verdict = verify_path(shards)

        assert verdict.state is State.NO_CHECKSUM
        assert verdict.format == "dcp"

    def test_a_flip_in_any_archive_of_a_shard_is_found(self, shards):
        path = next(shards.glob("*.distcp"))
        data = path.read_bytes()

        states = set()
        for offset in range(0, len(data), 37):
            broken = bytearray(data)
            broken[offset] ^= 16
            path.write_bytes(broken)
            states.add(verify_path(shards).state)

        assert states == {State.DAMAGED}

    def test_a_missing_start_is_found(self, shards):
        path = next(shards.glob("*.distcp"))
        path.write_bytes(path.read_bytes()[100:])

        assert verify_path(shards).state is State.DAMAGED

    def test_missing_shards_are_damage(self, shards):
        next(shards.glob("*.distcp")).unlink()

        assert verify_path(shards).state is State.DAMAGED

    def test_empty_metadata_is_truncated(self, shards):
        (shards / ".metadata").write_bytes(b"")

        assert verify_path(shards).state is State.TRUNCATED

    def test_metadata_that_end_early_are_truncated(self, shards):
        path = shards / ".metadata"
        data = path.read_bytes()

        states = set()
        for size in range(1, len(data), 7):
            path.write_bytes(data[:size])
            states.add(verify_path(shards).state)

        assert states == {State.TRUNCATED}

    @pytest.mark.parametrize("spoil", [lambda d: d + b"x", lambda d: b"x" + d])
    def test_metadata_with_more_than_a_pickle_are_damaged(self, shards, spoil):
        path = shards / ".metadata"
        path.write_bytes(spoil(path.read_bytes()))

        assert verify_path(shards).state is State.DAMAGED

    def test_a_shard_that_is_named_and_missing_is_damage(self, shards):
        path = next(shards.glob("*.distcp"))
        path.rename(shards / "other.distcp")

        verdict = verify_path(shards)

        assert verdict.state is State.DAMAGED
        assert f"names `{path.name}`, which is not there" in verdict.findings[0].message

    def test_a_save_that_did_not_get_to_its_metadata_did_not_end(self, shards):
        (shards / ".metadata").unlink()

        verdict = verify_path(shards)

        assert verdict.state is State.TRUNCATED
        assert "its save did not end" in verdict.findings[0].message

    def test_a_single_shard_is_sound_in_itself(self, shards):
        assert verify_path(next(shards.glob("*.distcp"))).state is State.SOUND

    def test_inside_a_checkpoint_they_are_sound_by_digest(self, shards, tmp_path):
        files = {p.name: p.read_bytes() for p in shards.iterdir()}
        directory = tmp_path / "step-00001200"
        write_checkpoint(directory, files)
        sound = verify_path(directory)
        metadata = bytearray(files[".metadata"])
        metadata[50] ^= 1
        (directory / ".metadata").write_bytes(metadata)

        damaged = verify_path(directory)

        assert sound.state is State.SOUND, sound.findings
        assert damaged.state is State.DAMAGED
        assert damaged.findings[0].file == ".metadata"
