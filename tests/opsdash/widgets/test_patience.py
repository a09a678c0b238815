"""Expressions that would never end do, and leave no timer behind."""

import re
import signal
import threading

import pytest

from opsdash.widgets.patience import OutOfPatienceError, patience

ENDLESS = "(a+)+$"


def test_an_expression_that_backtracks_is_stopped():
    with pytest.raises(OutOfPatienceError), patience(0.05):
        re.search(ENDLESS, "a" * 64 + "b")


def test_what_ends_in_time_is_let_through_and_the_timer_is_off():
    before = signal.getsignal(signal.SIGVTALRM)

    with patience(5):
        found = re.search("b$", "aab")

    assert found
    assert signal.getitimer(signal.ITIMER_VIRTUAL) == (0, 0)
    assert signal.getsignal(signal.SIGVTALRM) is before


def test_an_error_inside_is_the_error_outside():
    with pytest.raises(KeyError), patience(5):
        raise KeyError

    assert signal.getitimer(signal.ITIMER_VIRTUAL) == (0, 0)


def test_another_thread_is_left_alone():
    done = []

    def work():
        with patience(0.001):
            done.append(sum(range(10**6)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()

    assert len(done) == 1
