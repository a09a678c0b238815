"""A confirmed plan, from enter to the job that it becomes."""

import threading
import time

import pytest

from agent.rundir.errors import RunDirError
from opsdash.jobs import beginning as beginning_module
from opsdash.jobs import errand
from opsdash.jobs.beginning import Beginning
from opsdash.widgets.progress import JobState

LONG_S = 30


class Going:
    """What a plan becomes."""

    title = "go"

    def __init__(self):
        self.told = []

    def state(self):
        return JobState(self.title)

    def cancel(self):
        self.told.append("cancel")

    def leave(self):
        self.told.append("leave")


class Desk:
    """Hears what came of it."""

    def __init__(self):
        self.jobs = []

    def begin(self, begin):
        return Beginning("save it", begin, self.jobs.append)


@pytest.fixture
def desk():
    return Desk()


@pytest.fixture
def late(desk, monkeypatch):
    """A beginning on a disk that answers when it is let: (it, its job, what lets)."""
    monkeypatch.setattr(errand, "PATIENCE_S", 0.0)
    monkeypatch.setattr(beginning_module, "LEAVE_S", 0.0)
    job, go_on = Going(), threading.Event()
    beginning = desk.begin(lambda: go_on.wait(LONG_S) and job)
    yield beginning, job, go_on
    go_on.set()


def until(is_so):
    deadline_s = time.monotonic() + LONG_S
    while not is_so():
        assert time.monotonic() < deadline_s
        time.sleep(0.001)


def test_what_was_written_goes_on_as_a_job(desk):
    job = Going()
    beginning = desk.begin(lambda: job)

    assert beginning.wait()
    assert beginning.finish()
    assert (desk.jobs, job.told) == ([job], [])


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (RunDirError("it cannot be written"), "it cannot be written"),
        (OSError(28, "No space left on device", "/run"), "`/run`: No space left"),
        (OSError("gone"), "gone"),
        (KeyError("x"), "KeyError: 'x'"),
    ],
)
def test_why_nothing_began_stays_on_its_line(desk, error, text):
    def begin():
        raise error

    beginning = desk.begin(begin)

    assert beginning.wait()
    assert not beginning.finish()
    assert desk.jobs == []
    assert beginning.state().outcome == "failed"
    assert beginning.state().detail.startswith(text)


def test_who_cancels_before_it_is_written_cancels_what_it_becomes(desk, late):
    beginning, job, go_on = late

    before = beginning.state()
    beginning.cancel()
    meanwhile = beginning.state()
    go_on.set()
    until(lambda: not beginning.state().is_running)
    beginning.finish()

    assert (before.is_running, before.detail) == (True, "waits for the disk")
    assert meanwhile.is_running
    assert meanwhile.detail == "cancelled when the disk answers"
    assert (desk.jobs, job.told) == ([job], ["cancel"])


def test_what_goes_on_by_itself_offers_no_key_that_would_not_stop_it(monkeypatch):
    monkeypatch.setattr(errand, "PATIENCE_S", 0.0)
    job, go_on, jobs = Going(), threading.Event(), []
    beginning = Beginning(
        "resume it", lambda: go_on.wait(LONG_S) and job, jobs.append, can_cancel=False
    )

    before = beginning.state()
    beginning.cancel()
    after = beginning.state()
    go_on.set()
    until(lambda: beginning.is_done)
    beginning.finish()

    assert not before.can_cancel
    assert after == before
    assert (jobs, job.told) == ([job], [])


@pytest.mark.parametrize("is_written_first", [True, False])
def test_who_leaves_leaves_what_it_becomes(late, is_written_first):
    beginning, job, go_on = late

    if is_written_first:
        go_on.set()
        until(lambda: beginning.is_done)
    beginning.leave()
    go_on.set()
    until(lambda: beginning.is_done)

    assert job.told == ["leave"]


def test_what_was_confirmed_is_written_before_the_dashboard_goes(desk, monkeypatch):
    monkeypatch.setattr(beginning_module, "LEAVE_S", LONG_S)
    written, is_leaving = [], threading.Event()

    def begin():
        assert is_leaving.wait(LONG_S)
        written.append("a request")
        return Going()

    beginning = desk.begin(begin)
    is_leaving.set()
    beginning.leave()

    assert written == ["a request"]
