"""The reader that a store keeps for the next call, and when it does not."""

import os
import shutil
import threading
from pathlib import Path

import pytest
import torch

from agent.rundir.chunks.errors import MissingChunkError, NotAChunkStoreError
from agent.rundir.chunks.reader import ChunkStoreReader
from trainer.chunks.store import ChunkStore
from trainer.chunks.stored import StoredRounds


def open_descriptors(path):
    """How often this process has the file open."""
    links = (Path(os.path.realpath(link)) for link in Path("/proc/self/fd").iterdir())
    return sum(link == path for link in links)


@pytest.fixture
def opened(monkeypatch):
    """The paths of the stores that were opened."""
    paths, real = [], ChunkStoreReader.__init__

    def noted(self, path, *suspects):
        paths.append(path)
        real(self, path, *suspects)

    monkeypatch.setattr(ChunkStoreReader, "__init__", noted)
    return paths


@pytest.fixture
def store(tmp_path):
    with ChunkStore.open(tmp_path / "server_chunks.db", node="server") as store:
        store.put_round(1, {"weight": torch.full((8,), 1.0)})
        yield store


def test_calls_one_after_the_other_open_the_store_once(store, opened):
    for _ in range(3):
        assert store.get_round(1)["weight"].sum() == 8
        assert [row.round_num for row in store.rounds()] == [1]
    assert len(opened) == 1


def test_it_sees_what_was_written_since(store):
    store.get_round(1)
    store.put_round(2, {"weight": torch.full((8,), 2.0)})
    assert store.get_round(2)["weight"].tolist() == [2.0] * 8


def test_another_file_at_the_path_is_the_one_that_is_read(tmp_path):
    paths = [tmp_path / "first_chunks.db", tmp_path / "other_chunks.db"]
    for path, round_num in zip(paths, (1, 7), strict=True):
        with ChunkStore.open(path, node="server") as store:
            store.put_round(round_num, {"weight": torch.zeros(3)})
    stored = StoredRounds(paths[0])
    assert [row.round_num for row in stored.rounds()] == [1]

    paths[1].replace(paths[0])

    assert [row.round_num for row in stored.rounds()] == [7]
    stored.close_readers()


def test_a_store_that_is_gone_is_told(store):
    store.get_round(1)
    store.settle()
    store.path.unlink()
    with pytest.raises(NotAChunkStoreError):
        store.rounds()


def test_a_reader_that_met_an_error_is_not_kept(store, opened):
    store.get_round(1)
    with pytest.raises(MissingChunkError):
        store.get_chunk("0" * 64)
    assert store.get_round(1)["weight"].sum() == 8
    assert len(opened) == 2


def test_closing_lets_go_of_the_file_and_folds_the_log_in(tmp_path):
    path = tmp_path / "server_chunks.db"
    large = {"weight": torch.randn(3 << 20)}  # read by several threads at once
    with ChunkStore.open(path, node="server") as store:
        store.put_round(1, large)
        assert torch.equal(store.get_round(1)["weight"], large["weight"])
        assert open_descriptors(path) > 1
    assert open_descriptors(path) == 0
    assert not path.with_name(f"{path.name}-wal").exists()


def test_threads_that_read_at_once_have_readers_of_their_own(store):
    num_threads, found, start = 8, [], threading.Barrier(8)

    def read():
        start.wait()
        found.extend(store.get_round(1)["weight"].sum().item() for _ in range(20))

    threads = [threading.Thread(target=read) for _ in range(num_threads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [8.0] * (20 * num_threads)


def test_a_forked_child_opens_the_store_itself(store, opened):
    store.get_round(1)
    before = len(opened)
    if (pid := os.fork()) == 0:
        try:
            is_right = store.get_round(1)["weight"].sum() == 8
            os._exit(0 if is_right and len(opened) == before + 1 else 1)
        finally:
            os._exit(2)
    assert os.waitpid(pid, 0)[1] == 0
    store.get_round(1)
    assert len(opened) == before


def test_a_copy_of_a_store_opens_while_the_store_is_read(store, tmp_path):
    store.get_round(1)
    store.settle()
    copy = shutil.copy(store.path, tmp_path / "copy_chunks.db")
    with ChunkStoreReader(tmp_path / "copy_chunks.db") as reader:
        assert reader.num_rounds == 1, copy
