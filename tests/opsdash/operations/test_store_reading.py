"""A store that is read beside a screen: order, failures, the end."""

import threading

import pytest
import torch

from agent.rundir.errors import RunDirError
from opsdash.operations.store_reading import _MAX_WAITING, StoreReading
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
    asking.reading._thread.join(PATIENCE_S)
    assert not asking.reading._thread.is_alive()


def hold_up(asking):
    """Keep the thread busy; return what lets it go on."""
    begun, go_on = threading.Event(), threading.Event()

    def read(_):
        begun.set()
        go_on.wait(PATIENCE_S)

    asking.reading.ask("busy", read)
    assert begun.wait(PATIENCE_S)
    return go_on


def test_an_answer_comes_from_the_store(asking):
    asking.reading.ask("rounds", lambda reader: reader.rounds())

    (row,) = asking.answers(1)["rounds"]

    assert (row.round_num, row.num_chunks) == (1, 3)


def test_the_newest_wish_is_answered_first_and_a_repeated_one_once(asking):
    order = []
    go_on = hold_up(asking)
    for what in ("a", "b", "c", "a", "busy"):
        asking.reading.ask(what, lambda _, what=what: order.append(what))
    go_on.set()

    asking.answers(4)

    assert order == ["a", "c", "b"]


def test_wishes_that_nobody_repeats_are_forgotten(asking):
    order = []
    go_on = hold_up(asking)
    for what in range(_MAX_WAITING + 10):
        asking.reading.ask(what, lambda _, what=what: order.append(what))
    go_on.set()

    asking.answers(_MAX_WAITING + 1)

    assert sorted(order) == list(range(10, _MAX_WAITING + 10))


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
