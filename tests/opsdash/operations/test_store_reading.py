"""A store that is read beside a screen: answers, failures, the end."""

import threading

import pytest
import torch

from agent.rundir.errors import RunDirError
from opsdash.operations.store_reading import StoreReading
from trainer.chunks.split import FlatSplit
from trainer.chunks.store import ChunkStore

PATIENCE_S = 30


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("store") / "server_chunks.db"
    with ChunkStore(path, node="server") as store:
        store.put_round(1, {"w": torch.ones(9)}, split=FlatSplit(3))
    return path


class Asking:
    """Whoever draws: asks, and waits for answers."""

    def __init__(self, path):
        self.told = threading.Semaphore(0)
        self.reading = StoreReading(path, self.told.release)

    def answers(self, num):
        """Return what so many answers brought."""
        found = {}
        for _ in range(num):
            assert self.told.acquire(timeout=PATIENCE_S)
            found.update(self.reading.take())
        return found


@pytest.fixture
def asking(path):
    asking = Asking(path)
    yield asking
    asking.reading.stop()
    assert asking.reading.join(PATIENCE_S)


def test_an_answer_comes_from_the_store(asking):
    asking.reading.ask("rounds", lambda reader: reader.rounds())

    (row,) = asking.answers(1)["rounds"]

    assert (row.round_num, row.num_chunks) == (1, 3)


def test_a_failure_is_an_answer_and_the_next_wish_is_tried(asking):
    asking.reading.ask("missing", lambda reader: reader.round(9))
    asking.reading.ask("broken", lambda reader: reader.nothing_like_it())
    found = asking.answers(2)
    asking.reading.ask("rounds", lambda reader: reader.rounds())

    assert isinstance(found["missing"], RunDirError)
    assert "AttributeError" in str(found["broken"])
    assert len(asking.answers(1)["rounds"]) == 1


def test_a_store_that_comes_later_is_opened_then(tmp_path, path):
    later = tmp_path / "client-1_chunks.db"
    asking = Asking(later)
    asking.reading.ask("rounds", lambda reader: reader.rounds())
    before = asking.answers(1)["rounds"]
    later.write_bytes(path.read_bytes())
    asking.reading.ask("rounds", lambda reader: reader.rounds())
    after = asking.answers(1)["rounds"]
    asking.reading.stop()

    assert isinstance(before, RunDirError)
    assert len(after) == 1
