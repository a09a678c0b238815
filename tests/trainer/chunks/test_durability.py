import fcntl
import json
import os
import random
import shlex
import signal
import struct
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from agent.rundir.chunks.errors import NotAChunkStoreError, StoreFullError
from agent.rundir.chunks.reader import ChunkStoreReader
from agent.rundir.chunks.schema import BALLAST_NAME
from tests.trainer.chunks.endless_writer import KEEP_ROUNDS, model_of
from tests.trainer.chunks.store_faults import same_tensors, small_model, store_path
from trainer.chunks import database
from trainer.chunks.commands import prune_main
from trainer.chunks.split import TensorSplit
from trainer.chunks.store import ChunkStore

FS_IOC_SHUTDOWN = 0x8004587D
NO_LOG_FLUSH = 2
SOAK = (pytest.mark.soak, pytest.mark.timeout(3600))


@pytest.fixture
def writer():
    """A process that starts writers; killing them is the test's business."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.trainer.chunks.endless_writer"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
    )
    yield process
    process.stdin.close()
    process.wait()
    process.stdout.close()


def check_whole(path, last_acknowledged):
    """The newest rounds are there, whole, and none that was acknowledged lacks."""
    with ChunkStore.open(path) as store:
        numbers = [row.round_num for row in store.rounds()]
        newest = max(numbers, default=0)
        with store.reader() as reader:
            report = reader.verify()

        assert report.findings == ()
        assert last_acknowledged <= newest <= last_acknowledged + 1
        assert numbers == list(range(max(1, newest - KEEP_ROUNDS + 1), newest + 1))
        for number in numbers:
            assert same_tensors(store.get_round(number), model_of(number))
        if newest:
            assert store.get_state("acknowledged") == str(newest).encode()


@pytest.mark.parametrize("num_kills", [8, pytest.param(300, marks=SOAK)])
def test_a_kill_at_any_moment_leaves_whole_rounds(tmp_path, writer, num_kills):
    path = store_path(tmp_path)
    chance = random.Random(11)

    for _ in range(num_kills):
        writer.stdin.write(f"{path}\n")
        pid = int(writer.stdout.readline())
        acknowledged = int(writer.stdout.readline())
        time.sleep(chance.uniform(0, 0.1))
        os.kill(pid, signal.SIGKILL)
        while (line := writer.stdout.readline()) != "gone\n":
            acknowledged = int(line)

        check_whole(path, acknowledged)


@contextmanager
def mounted(point, *options):
    point.mkdir(exist_ok=True)
    command = ["mount", *options, str(point)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"mounting is not permitted here: {done.stderr.strip()}")
    try:
        yield point
    finally:
        # What was killed may hold the mount for a moment longer.
        for _ in range(50):
            if not subprocess.run(["umount", str(point)], check=False).returncode:
                break
            time.sleep(0.1)


@pytest.mark.skipif(os.getuid() != 0, reason="only root may mount")
@pytest.mark.parametrize("num_cuts", [2, pytest.param(60, marks=SOAK)])
def test_a_power_cut_loses_no_acknowledged_round(tmp_path, writer, num_cuts):
    image = tmp_path / "disk.img"
    with image.open("wb") as file:
        file.truncate(96 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", str(image)], check=True)
    point = tmp_path / "disk"
    path = store_path(point / "run")
    chance = random.Random(12)

    for _ in range(num_cuts):
        with mounted(point, "-o", "loop", str(image)):
            writer.stdin.write(f"{path}\n")
            pid = int(writer.stdout.readline())
            acknowledged = int(writer.stdout.readline())
            time.sleep(chance.uniform(0, 0.3))
            os.kill(pid, signal.SIGSTOP)
            acknowledged = last_printed(writer, pid, acknowledged, point)
        with mounted(point, "-o", "loop", str(image)):
            check_whole(path, acknowledged)


def last_printed(writer, pid, acknowledged, point):
    """Cut the power under a stopped writer; return what it acknowledged before."""
    fd = os.open(point, os.O_RDONLY)
    fcntl.ioctl(fd, FS_IOC_SHUTDOWN, struct.pack("I", NO_LOG_FLUSH))
    os.close(fd)
    os.kill(pid, signal.SIGKILL)
    while (line := writer.stdout.readline()) != "gone\n":
        acknowledged = int(line)
    return acknowledged


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 24 MiB."""
    with mounted(tmp_path / "disk", "-t", "tmpfs", "-o", "size=24m", "tmpfs") as disk:
        yield disk


def big_model(round_num):
    generator = torch.Generator().manual_seed(round_num)
    return {"w": torch.randn(700, 1024, generator=generator)}


def fill_with_rounds(store):
    """Store rounds until the disk is full; return how many there are."""
    round_num = 0
    while True:
        try:
            store.put_round(round_num + 1, big_model(round_num + 1), keep_rounds=None)
        except StoreFullError as error:
            return round_num, error
        round_num += 1


def occupy(disk):
    """Leave not a single byte to anybody."""
    with (disk / "occupied").open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            try:
                while file.write(b"\0" * size):
                    pass
            except OSError:
                continue


@pytest.mark.skipif(os.getuid() != 0, reason="only root may mount")
@pytest.mark.parametrize("is_foreseen", [True, False], ids=["foreseen", "met"])
def test_a_full_disk_leaves_what_was_there(small_disk, monkeypatch, is_foreseen):
    if not is_foreseen:
        monkeypatch.setattr(database, "free_bytes", lambda path: 1 << 60)
    path = store_path(small_disk)

    with ChunkStore.open(path) as store:
        num_rounds, error = fill_with_rounds(store)

        assert num_rounds >= 3
        assert [row.round_num for row in store.rounds()] == [*range(1, num_rounds + 1)]
        with store.reader() as reader:
            assert reader.verify().is_sound
        program, arguments = error.hint.split(" prune ")
        assert program == "python -m trainer"
        if is_foreseen:
            # The log's room for the next round is given back.
            assert path.with_name(f"{path.name}-wal").stat().st_size == 0

        assert prune_main(shlex.split(arguments)) == 0
        store.put_round(num_rounds + 1, big_model(num_rounds + 1), keep_rounds=None)


@pytest.mark.skipif(os.getuid() != 0, reason="only root may mount")
@pytest.mark.parametrize("is_foreseen", [True, False], ids=["foreseen", "met"])
def test_pruning_works_on_a_disk_without_a_single_byte(
    small_disk, monkeypatch, is_foreseen
):
    if not is_foreseen:
        monkeypatch.setattr(database, "free_bytes", lambda path: 1 << 60)
    path = store_path(small_disk)
    with ChunkStore.open(path) as store:
        num_rounds, _ = fill_with_rounds(store)
        occupy(small_disk)

        stats = store.prune(1)

        assert stats.rounds == tuple(range(1, num_rounds))
        assert stats.freed_bytes > (num_rounds - 2) * 700 * 4096
        assert same_tensors(store.get_round(num_rounds), big_model(num_rounds))
        assert path.with_name(BALLAST_NAME).exists()
        store.put_round(num_rounds + 1, big_model(0), keep_rounds=1)
        assert same_tensors(store.get_round(num_rounds + 1), big_model(0))


@pytest.mark.skipif(os.getuid() != 0, reason="only root may mount")
def test_a_store_that_nobody_has_open_is_pruned_on_a_full_disk_too(small_disk, capsys):
    path = store_path(small_disk)
    with ChunkStore.open(path) as store:
        num_rounds, _ = fill_with_rounds(store)
    occupy(small_disk)
    size = path.stat().st_size
    with pytest.raises(StoreFullError):
        ChunkStore.open(path)

    code = prune_main([str(small_disk), "--node", "server", "--keep-rounds", "1"])

    told = json.loads(capsys.readouterr().out)
    assert code == 0
    assert told["pruned"] == [*range(1, num_rounds)]
    assert told["freed_bytes"] == size - path.stat().st_size
    with ChunkStore.open(path) as store:
        assert same_tensors(store.get_round(num_rounds), big_model(num_rounds))
    assert path.with_name(BALLAST_NAME).exists()


@pytest.fixture
def larger_disk(tmp_path):
    """A file system of 192 MiB."""
    with mounted(tmp_path / "disk", "-t", "tmpfs", "-o", "size=192m", "tmpfs") as disk:
        yield disk


@pytest.mark.skipif(os.getuid() != 0, reason="only root may mount")
def test_pruning_a_full_disk_needs_no_more_than_the_ballast(larger_disk):
    """Chunks that stay and go alternate, so that every page must be rewritten."""
    path = store_path(larger_disk)
    frozen = {f"frozen.{i}": torch.full((3000,), float(i)) for i in range(1500)}
    with ChunkStore.open(path) as store:
        # Pages at the start that become free: those at the end move there.
        mixed = {"big": torch.randn(5_000_000)}
        for i, (name, tensor) in enumerate(frozen.items()):
            mixed[name] = tensor
            mixed[f"trained.{i}"] = torch.full((3000,), -1.0 - i)
        store.put_round(1, mixed)
        store.put_round(2, frozen)
    with ChunkStore.open(path) as store:
        # The log of an open store has room of its own; that of this one has none.
        occupy(larger_disk)

        stats = store.prune(1)

        assert stats.rounds == (1,)
        assert stats.freed_bytes > 19_000_000
        assert store.stats().unique_bytes == 1500 * 12_000
        assert same_tensors(store.get_round(2), frozen)


def test_pruning_leaves_no_half_empty_pages(tmp_path):
    frozen = {f"frozen.{i}": torch.full((3000,), float(i)) for i in range(400)}
    mixed = {}
    for i, (name, tensor) in enumerate(frozen.items()):
        mixed[name] = tensor
        mixed[f"trained.{i}"] = torch.full((3000,), -1.0 - i)
    with ChunkStore.open(store_path(tmp_path)) as store:
        store.put_round(1, mixed)
        store.put_round(2, frozen)

        store.prune(1)

        stats = store.stats()
        assert stats.file_bytes <= 1.1 * stats.unique_bytes + 16 * 65536
        assert same_tensors(store.get_round(2), frozen)


@pytest.mark.skipif(os.getuid() != 0, reason="only root may mount")
def test_no_room_for_a_new_store_is_said_so(small_disk):
    occupy(small_disk)

    with pytest.raises(StoreFullError, match="cannot grow"):
        ChunkStore.open(store_path(small_disk))


def test_a_store_that_died_while_being_made_is_made_again(tmp_path):
    path = store_path(tmp_path)
    path.parent.mkdir(parents=True)
    path.touch()

    with ChunkStore.open(path) as store:
        store.put_round(1, big_model(1))

        assert store.rounds()


@pytest.mark.parametrize("num_rounds", [7])
def test_the_file_stays_as_large_as_the_rounds_that_are_kept(tmp_path, num_rounds):
    path = store_path(tmp_path)
    with ChunkStore.open(path) as store:
        for round_num in range(1, num_rounds + 1):
            store.put_round(round_num, big_model(round_num), keep_rounds=3)

    with ChunkStoreReader(path) as reader:
        stats = reader.stats()

    assert stats.num_rounds == 3
    # Thirteen trees of 64 KiB pages are there however little they hold.
    assert stats.file_bytes <= 1.03 * stats.unique_bytes + 13 * 65536


def test_a_new_round_takes_the_pages_of_the_one_that_goes(tmp_path, monkeypatch):
    """Else each round would grow the file and be moved together afterwards."""
    num_pages = []

    def tidy(conn, path):
        num_pages.append(conn.execute("PRAGMA page_count").fetchone()[0])

    monkeypatch.setattr("trainer.chunks.store.tidy", tidy)
    with ChunkStore.open(store_path(tmp_path)) as store:
        for round_num in range(1, 8):
            store.put_round(
                round_num,
                big_model(round_num),
                keep_rounds=3,
                split=TensorSplit(1 << 17),
            )

    assert num_pages[-1] <= num_pages[2] + 2


def test_a_new_round_does_not_read_the_log_back(tmp_path, monkeypatch):
    """SQLite does, to renew its checksums, if a page goes into the log twice."""
    num_items = 8 << 20  # more than the page cache holds
    with ChunkStore.open(store_path(tmp_path)) as store:
        for round_num in range(1, 4):
            store.settle()
            before = bytes_read()
            # Folding the log in reads it, afterwards.
            monkeypatch.setattr("trainer.chunks.store.tidy", lambda *_: None)
            model = {"w": torch.randn(num_items)}
            store.put_round(round_num, model, keep_rounds=2)
            num_read = bytes_read() - before
            monkeypatch.undo()

    # The pages of the round that goes are read once, by SQLite's rules.
    assert num_read < 1.5 * num_items * 4


def bytes_read():
    """What this process has read so far, whether from a disk or from memory."""
    fields = dict(
        line.split(": ") for line in Path("/proc/self/io").read_text().splitlines()
    )
    return int(fields["rchar"])


def test_pruning_gives_the_space_back_at_once(tmp_path):
    path = store_path(tmp_path)
    with ChunkStore.open(path) as store:
        for round_num in range(1, 9):
            store.put_round(round_num, big_model(round_num), keep_rounds=None)

        stats = store.prune(1)
        left = store.stats()

    assert stats.rounds == tuple(range(1, 8))
    assert left.file_bytes <= 1.03 * left.unique_bytes + 13 * 65536
    assert Path(path).stat().st_size == left.file_bytes


def test_a_model_that_becomes_smaller_makes_the_file_smaller(tmp_path):
    path = store_path(tmp_path)
    with ChunkStore.open(path) as store:
        store.put_round(1, {"w": torch.randn(4000, 1024)}, keep_rounds=1)

        store.put_round(2, {"w": torch.randn(10)}, keep_rounds=1)
        store.settle()

        assert path.stat().st_size < 20 * 65536


def test_a_frozen_chunk_survives_when_only_one_round_is_kept(tmp_path):
    with ChunkStore.open(store_path(tmp_path)) as store:
        model = {"frozen": torch.randn(64), "trained": torch.randn(64)}
        store.put_round(1, model, keep_rounds=1)

        model["trained"] = torch.randn(64)
        stats = store.put_round(2, model, keep_rounds=1)

        assert stats.num_new == 1
        assert stats.pruned == (1,)
        assert same_tensors(store.get_round(2), model)


def test_nothing_kept_is_a_mistake(tmp_path):
    with ChunkStore.open(store_path(tmp_path)) as store:
        store.put_round(1, {})

        with pytest.raises(ValueError, match="keep_rounds is 0"):
            store.put_round(2, {}, keep_rounds=0)
        with pytest.raises(ValueError, match="keep_rounds is 0"):
            store.prune(0)


def test_a_round_is_one_transaction_of_one_fsync(tmp_path):
    """What was told to be durable is: killed before anything is folded in."""
    path = store_path(tmp_path)
    store = ChunkStore.open(path)
    store.settle()
    tidied = []
    store._upkeep.submit = lambda *_: tidied.append(1)
    store.put_round(1, big_model(1), split=TensorSplit(1 << 16))

    # A copy of the files as a crash would find them.
    crashed = store_path(tmp_path / "crashed")
    crashed.parent.mkdir(parents=True)
    for suffix in ("", "-wal"):
        copy = crashed.with_name(crashed.name + suffix)
        copy.write_bytes(path.with_name(path.name + suffix).read_bytes())
    store._tidying = None
    store.close()

    with ChunkStore.open(crashed) as again:
        assert tidied
        assert same_tensors(again.get_round(1), big_model(1))


@pytest.mark.parametrize("is_replaced", [False, True])
def test_nothing_is_acknowledged_once_the_file_is_gone(tmp_path, is_replaced):
    path = store_path(tmp_path)
    store = ChunkStore.open(path)
    store.put_round(1, small_model())
    path.parent.rename(tmp_path / "moved")
    if is_replaced:
        ChunkStore.open(path).close()

    with pytest.raises(NotAChunkStoreError, match="removed or replaced while it was"):
        store.put_round(2, small_model(1))
    with pytest.raises(NotAChunkStoreError, match="removed or replaced while it was"):
        store.put_state({"a": b"1"})

    store.close()
    with ChunkStore.open(tmp_path / "moved" / path.name) as found:
        assert [row.round_num for row in found.rounds()] == [1]
