"""What is read beside a screen: order, failures, patience, the end."""

import threading

import pytest

from agent.rundir.errors import RunDirError
from opsdash.operations.beside import MAX_WAITING, Beside

LONG_S = 30


class Asking:
    """Whoever draws: asks, and waits for answers."""

    def __init__(self):
        self.told = threading.Semaphore(0)
        self.ended = threading.Event()
        self.beside = Beside("reading", self.told.release, at_end=self.ended.set)

    def answers(self, num):
        """Return what so many answers brought."""
        found = {}
        for _ in range(num):
            assert self.told.acquire(timeout=LONG_S)
            found.update(self.beside.take())
        return found

    def hold_up(self):
        """Keep the thread busy; return what lets it go on."""
        begun, go_on = threading.Event(), threading.Event()

        def read():
            begun.set()
            go_on.wait(LONG_S)
            return "at last"

        self.beside.ask("busy", read)
        assert begun.wait(LONG_S)
        return go_on


@pytest.fixture
def asking():
    asking = Asking()
    yield asking
    asking.beside.stop()
    assert asking.beside.join(LONG_S)


def test_the_newest_wish_is_answered_first_and_a_repeated_one_once(asking):
    order = []
    go_on = asking.hold_up()
    for what in ("a", "b", "c", "a", "busy"):
        asking.beside.ask(what, lambda what=what: order.append(what))
    go_on.set()

    asking.answers(4)

    assert order == ["a", "c", "b"]


def test_wishes_that_nobody_repeats_are_forgotten(asking):
    order = []
    go_on = asking.hold_up()
    for what in range(MAX_WAITING + 10):
        asking.beside.ask(what, lambda what=what: order.append(what))
    go_on.set()

    asking.answers(MAX_WAITING + 1)

    assert sorted(order) == list(range(10, MAX_WAITING + 10))


def test_a_failure_is_an_answer_and_the_next_wish_is_tried(asking):
    asking.beside.ask("broken", lambda: 1 // 0)
    asking.beside.ask("good", lambda: 7)

    found = asking.answers(2)

    assert isinstance(found["broken"], RunDirError)
    assert "ZeroDivisionError" in str(found["broken"])
    assert found["good"] == 7


def test_an_answer_that_comes_soon_is_waited_for(asking):
    asking.beside.ask("soon", lambda: 7)

    is_there = asking.beside.wait("soon", LONG_S)

    assert is_there
    assert asking.beside.take() == {"soon": 7}


def test_who_waited_in_vain_waits_again_only_after_an_answer(asking):
    go_on = asking.hold_up()
    first = asking.beside.wait("busy", 0.0)
    asking.beside.ask("more", lambda: 8)
    # Would not come back, did it wait.
    second = asking.beside.wait("more", 10 * LONG_S)
    go_on.set()
    found = asking.answers(2)
    asking.beside.ask("soon", lambda: 7)

    third = asking.beside.wait("soon", LONG_S)

    assert (first, second, third) == (False, False, True)
    assert found == {"busy": "at last", "more": 8}


def test_after_the_end_nothing_is_read(asking):
    asking.beside.ask("one", lambda: 1)
    asking.answers(1)
    asking.beside.stop()
    asking.beside.ask("two", lambda: 2)

    assert asking.ended.wait(LONG_S)
    assert not asking.beside.wait("two", LONG_S)


def test_one_that_was_never_asked_has_no_thread():
    beside = Beside("idle", lambda: None)
    num_threads = threading.active_count()

    beside.stop()

    assert beside.join(LONG_S)
    assert threading.active_count() == num_threads
