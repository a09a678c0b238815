"""When the screen is shown anew: news at once, but not without end."""

from types import SimpleNamespace

import pytest

from opsdash.feed.reader import RunReader
from opsdash.jobs import attached as module
from opsdash.jobs.attached import Attached
from opsdash.operations.record import entry
from tests.runs import RunWriter


class Hand:
    """A run, what reads it by hand, and a clock that the test moves."""

    def __init__(self, path):
        self.writer = RunWriter(path)
        self.writer.begin()
        self.attached = Attached(self.writer.run)
        self.reader = RunReader(self.writer.run)
        self.now_s = 100.0

    def step(self, number):
        """Something new is written, read and folded."""
        self.writer.steps(number, number)
        self.read()

    def read(self):
        self.attached._feed._batches.append(self.reader.read())
        self.attached.take()

    def is_due_after(self, seconds):
        self.now_s += seconds
        return self.attached.is_due


@pytest.fixture
def hand(tmp_path, monkeypatch):
    hand = Hand(tmp_path / "run")
    clock = SimpleNamespace(monotonic=lambda: hand.now_s)
    monkeypatch.setattr(module, "time", clock)
    hand.attached.view()
    return hand


def test_the_first_that_is_read_is_shown_at_once(hand):
    before = hand.is_due_after(0.0)
    hand.read()

    assert not before
    assert hand.is_due_after(0.0)


def test_that_all_of_the_past_is_read_is_shown_at_once(hand):
    hand.writer.steps(1, 2_000)
    hand.read()
    hand.attached.view()
    part = hand.attached.is_behind
    while hand.attached.is_behind:
        due_before = hand.is_due_after(0.0)
        hand.read()

    assert part
    assert not due_before
    assert hand.is_due_after(0.0)


def test_news_waits_for_nothing_but_other_news(hand):
    hand.step(1)
    hand.attached.view()
    hand.is_due_after(1.1)
    hand.attached.view()  # nothing was new: only ages went on
    hand.step(2)
    first = hand.is_due_after(0.0)
    hand.attached.view()
    hand.step(3)

    assert first
    assert not hand.is_due_after(0.1)
    assert hand.is_due_after(0.2)


def test_without_news_ages_go_on_once_a_second(hand):
    hand.step(1)
    hand.attached.view()

    assert not hand.is_due_after(0.9)
    assert hand.is_due_after(0.2)


def test_an_operation_that_could_not_be_written_down_is_told(hand):
    log = hand.attached.log
    before = hand.attached.notes()
    hand.writer.run.operations.write_text("no directory")
    log.write(entry(log.new_id(), "pause", "started"))

    (told,) = set(hand.attached.notes()) - set(before)

    assert told.startswith("operations/ is not written: ")
