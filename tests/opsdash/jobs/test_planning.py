"""What is looked up before a plan can be shown."""

import threading
import time

import pytest

from agent.rundir.errors import RunDirError
from opsdash.jobs import errand as module
from opsdash.jobs.planning import Planning

LONG_S = 30


class Desk:
    """Hears what came of it."""

    def __init__(self):
        self.found, self.troubles = [], []

    def look_up(self, look):
        return Planning("plan it", look, self.found.append, self.troubles.append)


@pytest.fixture
def desk():
    return Desk()


def test_what_is_there_soon_is_passed_on_without_a_line(desk):
    planning = desk.look_up(lambda: 7)

    assert planning.wait()
    assert planning.finish()
    assert (desk.found, desk.troubles) == ([7], [])


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (RunDirError("no such round"), "no such round"),
        (OSError(5, "Input/output error", "/run"), "`/run`: Input/output error"),
        (KeyError("x"), "KeyError: 'x'"),
    ],
)
def test_why_there_is_nothing_is_told(desk, error, text):
    def look():
        raise error

    planning = desk.look_up(look)

    assert planning.wait()
    assert planning.finish()
    assert (desk.found, [str(one) for one in desk.troubles]) == ([], [text])


def test_what_takes_long_has_a_line_and_may_be_given_up(desk, monkeypatch):
    monkeypatch.setattr(module, "PATIENCE_S", 0.0)
    go_on = threading.Event()
    late = desk.look_up(lambda: go_on.wait(LONG_S) and 7)
    given_up = desk.look_up(lambda: go_on.wait(LONG_S) and 8)

    is_soon, before = late.wait(), late.state()
    given_up.cancel()
    go_on.set()
    deadline_s = time.monotonic() + LONG_S
    while late.state().is_running:
        assert time.monotonic() < deadline_s
        time.sleep(0.001)
    late.finish()
    keeps_its_line = not given_up.finish()

    assert not is_soon
    assert (before.is_running, before.detail) == (True, "reading the run")
    assert given_up.state().outcome == "cancelled"
    assert keeps_its_line
    assert desk.found == [7]
