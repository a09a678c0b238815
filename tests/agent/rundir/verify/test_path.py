"""Whatever lies at a path, there is a verdict, soon, and nothing is run."""

import os
import pickle
import random
import resource
import socket
import stat
import tarfile
from pathlib import Path

import numpy as np
import pytest

from agent.rundir.verify.path import VerifyCancelled, verify_checkpoint, verify_path
from agent.rundir.verify.verdict import Level, State
from tests.agent.rundir.verify.archives import (
    end_of_archive,
    places,
    saved,
    small_archive,
    write_small_checkpoint,
)
from tests.agent.rundir.verify.corruptions import put


def a_missing_file(path):
    pass


def an_empty_file(path):
    path.touch()


def a_fifo(path):
    os.mkfifo(path)


def a_socket(path):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


def a_directory(path):
    path.mkdir()


def a_link_to_itself(path):
    path.symlink_to(path)


def a_link_to_nothing(path):
    path.symlink_to(path.with_name("gone"))


def a_link_to_a_device(path):
    path.symlink_to("/dev/zero")


def a_text(path):
    path.write_text("step,loss\n1,0.5\n")


def a_plain_pickle(path):
    path.write_bytes(pickle.dumps({"a": 1}))


def a_tar(path):
    with tarfile.open(path, "w") as archive:
        archive.add(__file__, "storages")


def arrays(path):
    with path.open("wb") as file:
        np.savez(file, a=np.zeros(3))


def zeros(path):
    path.write_bytes(bytes(10_000))


def sparse_zeros(path):
    with path.open("wb") as file:
        file.truncate(1 << 40)


def one_byte(path):
    path.write_bytes(b"P")


WEIRD = {
    a_missing_file: State.UNREADABLE,
    an_empty_file: State.TRUNCATED,
    a_fifo: State.UNREADABLE,
    a_socket: State.UNREADABLE,
    a_directory: State.UNREADABLE,
    a_link_to_itself: State.UNREADABLE,
    a_link_to_nothing: State.UNREADABLE,
    a_link_to_a_device: State.UNREADABLE,
    a_text: State.UNREADABLE,
    a_plain_pickle: State.UNREADABLE,
    a_tar: State.UNREADABLE,
    arrays: State.UNREADABLE,
    zeros: State.DAMAGED,
    sparse_zeros: State.DAMAGED,
    one_byte: State.TRUNCATED,
}


@pytest.mark.parametrize("make", WEIRD, ids=lambda make: make.__name__)
@pytest.mark.parametrize("level", [Level.STRUCTURE, Level.CONTENT])
def test_anything_ends_in_a_verdict(make, level, tmp_path):
    path = tmp_path / "model.pt"
    make(path)

    verdict = verify_path(path, level)

    assert verdict.state is WEIRD[make]
    assert verdict.findings
    assert verdict.advice


def test_a_name_with_a_nul_byte_is_unreadable(tmp_path):
    verdict = verify_path(tmp_path / "a\0b")

    assert verdict.state is State.UNREADABLE


def test_a_name_is_shown_without_control_characters(tmp_path):
    path = tmp_path / "a\x1b[2Jb.pt"
    path.touch()

    verdict = verify_path(path)

    assert "\x1b" not in f"{verdict}"
    assert "a\\x1b[2Jb.pt" in verdict.path


def test_a_long_path_is_told_whole(tmp_path):
    path = tmp_path / ("d" * 150) / ("e" * 150) / "model.pt"

    verdict = verify_path(path)

    assert verdict.path == str(path)


@pytest.fixture
def as_nobody():
    """Root may read everything: be somebody else for a while."""
    if os.geteuid() == 0:
        os.seteuid(65534)
        yield
        os.seteuid(0)
    else:
        yield


@pytest.fixture
def forbidden(tmp_path):
    path = tmp_path / "model.pt"
    path.write_bytes(small_archive())
    path.chmod(0)
    directory = tmp_path / "step-00001200"
    write_small_checkpoint(directory)
    directory.chmod(0)
    return path, directory


def test_what_may_not_be_read_is_unreadable(forbidden, as_nobody):
    states = [verify_path(path).state for path in forbidden]

    assert states == [State.UNREADABLE, State.UNREADABLE]


def test_nothing_in_a_pickle_is_run(tmp_path):
    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "bang"),)

    path = tmp_path / "model.pt"
    data = saved({"bomb": Bomb()})
    path.write_bytes(data)
    legacy = tmp_path / "legacy.pt"
    legacy.write_bytes(saved({"bomb": Bomb()}, _use_new_zipfile_serialization=False))
    cut = tmp_path / "cut.pt"
    cut.write_bytes(data[:-300])

    states = [verify_path(p).state for p in (path, legacy, cut)]

    assert states == [State.SOUND, State.NO_CHECKSUM, State.TRUNCATED]
    assert not (tmp_path / "bang").exists()


def test_a_file_that_is_cut_while_it_is_read_is_truncated(tmp_path):
    path = tmp_path / "model.pt"
    path.write_bytes(saved({"w": bytearray(40 << 20)}))

    def cut(done, total):
        os.truncate(path, 10 << 20)

    verdict = verify_path(path, progress=cut)

    assert verdict.state is State.TRUNCATED
    assert "became shorter" in verdict.findings[0].message


def test_a_checkpoint_that_is_cut_while_it_is_hashed_is_truncated(tmp_path):
    checkpoint = tmp_path / "step-00001200"
    write_small_checkpoint(checkpoint)
    state = checkpoint / "state.pt"

    def cut():
        os.truncate(state, 100)
        return False

    verdict = verify_path(checkpoint, is_cancelled=cut)

    assert verdict.state is State.TRUNCATED


def test_a_file_that_is_written_while_it_is_read_cannot_be_judged(tmp_path):
    path = tmp_path / "model.pt"
    path.write_bytes(small_archive())

    verdict = verify_path(path, progress=lambda done, total: os.utime(path, (1, 1)))

    assert verdict.state is State.UNREADABLE
    assert "was written while" in verdict.findings[0].message


def test_progress_reaches_the_size_and_never_goes_back(tmp_path):
    path = tmp_path / "model.pt"
    path.write_bytes(saved({"w": bytearray(30 << 20)}))
    seen = []

    verify_path(path, progress=lambda done, total: seen.append((done, total)))

    size = path.stat().st_size
    assert len(seen) > 2
    assert seen == sorted(seen)
    assert seen[-1] == (size, size)


@pytest.mark.parametrize("num_threads", [1, 2])
def test_cancelling_ends_it_without_a_verdict(num_threads, tmp_path):
    path = tmp_path / "model.pt"
    path.write_bytes(saved({"w": bytearray(30 << 20)}))
    seen = []

    with pytest.raises(VerifyCancelled):
        verify_path(
            path,
            progress=lambda done, total: seen.append(done),
            is_cancelled=lambda: bool(seen),
            num_threads=num_threads,
        )

    assert seen[-1] < path.stat().st_size


def test_a_file_that_becomes_a_fifo_before_it_is_opened_does_not_hang(
    tmp_path, monkeypatch
):
    path, before = tmp_path / "model.pt", tmp_path / "before.pt"
    before.write_bytes(small_archive())
    os.mkfifo(path)
    seen_before = before.stat()
    monkeypatch.setattr(Path, "stat", lambda self: seen_before)

    verdict = verify_path(path)

    assert verdict.state is State.UNREADABLE
    assert "FIFO" in verdict.findings[0].message


def open_files():
    return {entry.name for entry in Path("/proc/self/fd").iterdir()}


def test_no_file_stays_open(tmp_path):
    path = tmp_path / "model.pt"
    path.write_bytes(small_archive()[:-5])
    before = open_files()

    for _ in range(3):
        verify_path(path)
        verify_path(tmp_path)

    assert open_files() == before


HUGE = 200 << 30


@pytest.mark.parametrize("start", [b"PK\3\4", small_archive()[:400]])
def test_huge_claims_cost_no_memory(start, tmp_path):
    path = tmp_path / "model.pt"
    with path.open("wb") as file:
        file.write(start)
        file.truncate(HUGE)
        file.seek(0, os.SEEK_END)
        file.write(end_of_archive(5, 1000, HUGE - 1000))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    verdict = verify_path(path, Level.STRUCTURE)

    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert verdict.exit_code != 0
    assert after - before < 400_000  # KiB


def test_records_that_overlap_are_read_once(tmp_path):
    data = small_archive()
    second, third = places(data)[4], places(data)[6]
    path = tmp_path / "model.pt"
    path.write_bytes(put(data, third.entry + 42, second.header.to_bytes(4, "little")))

    verdict = verify_path(path)

    assert verdict.state is State.DAMAGED
    assert any("overlaps another" in f.message for f in verdict.findings)


@pytest.mark.parametrize("seed", range(40))
def test_random_bytes_between_signatures_end_in_a_verdict(seed, tmp_path):
    rng = random.Random(seed)
    data = bytearray(small_archive())
    path = tmp_path / "model.pt"
    for _ in range(20):
        broken = bytearray(data)
        for _ in range(rng.randrange(1, 12)):
            start = rng.randrange(len(broken))
            width = rng.choice([1, 2, 4, 8, 16])
            piece = rng.choice([b"\xff" * width, bytes(width), rng.randbytes(width)])
            broken[start : start + width] = piece
        path.write_bytes(broken)

        verdict = verify_path(path)

        assert verdict.exit_code != 0 or bytes(broken) == bytes(data)


def test_a_verdict_about_a_sound_file_says_what_was_looked_at(tmp_path):
    path = tmp_path / "model.pt"
    path.write_bytes(small_archive())

    verdict = verify_path(path)

    assert stat.S_ISREG(path.stat().st_mode)
    assert verdict.format == "torch_zip"
    assert verdict.level is Level.CONTENT
    assert verdict.num_bytes == path.stat().st_size
    assert verdict.elapsed_ns > 0
    assert verdict.digest is None


def test_the_name_that_people_search_for_reads_every_byte(tmp_path):
    (tmp_path / "model.pt").write_bytes(small_archive())
    data = bytearray((tmp_path / "model.pt").read_bytes())
    sound = verify_checkpoint(tmp_path / "model.pt")
    data[len(data) // 2] ^= 1
    (tmp_path / "model.pt").write_bytes(data)

    damaged = verify_checkpoint(str(tmp_path / "model.pt"))

    assert (sound.state, damaged.state) == (State.SOUND, State.DAMAGED)
