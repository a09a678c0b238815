"""The reading thread, on real files and with real notifications."""

import time

import pytest

from agent.rundir import events as ev
from opsdash.feed import thread
from opsdash.feed.reader import RunReader
from opsdash.feed.thread import Feed
from opsdash.projections.run import Run
from tests.runs import RunWriter

PATIENCE_S = 30


@pytest.fixture
def writer(tmp_path):
    writer = RunWriter(tmp_path / "run")
    writer.begin()
    return writer


@pytest.fixture
def feed(writer):
    feed = Feed(RunReader(writer.run))
    feed.start()
    yield feed
    feed.stop()
    assert not feed.is_alive


def drain_until(feed, run, is_there):
    deadline = time.monotonic() + PATIENCE_S
    while not is_there(run):
        for batch in feed.take():
            run.fold(batch)
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.01)
    return run


def test_what_is_written_comes_out_of_the_deque(writer, feed):
    run = drain_until(feed, Run(), lambda r: r.directory.newest_attempt == 1)
    writer.emit(0, ev.StepDone, step=4)

    drain_until(feed, run, lambda r: r.steps.step == 4)

    assert run.is_caught_up


def test_a_long_history_comes_in_small_portions(writer):
    writer.steps(1, 5_000)
    feed = Feed(RunReader(writer.run))
    feed.start()
    run, portions = Run(), []
    while not run.is_caught_up or run.steps.step != 5_000:
        taken = list(feed.take(for_s=0.0))
        portions.append(sum(batch.num_events for batch in taken))
        for batch in taken:
            run.fold(batch)
    feed.stop()

    assert max(portions) < 2_500
    assert sum(portions) == 2 * 5_000 + 2


def test_a_preview_is_given_by_itself_so_that_it_is_shown(writer):
    for stem in writer.stems():
        writer.append(stem, (b" " * 999 + b"\n") * 5_000)
    writer.steps(1, 1_000)
    feed = Feed(RunReader(writer.run))
    feed.start()
    taken, run = [], Run()
    while not run.is_caught_up:
        taken.append(list(feed.take(for_s=PATIENCE_S)))
        for batch in taken[-1]:
            run.fold(batch)
    feed.stop()

    first = next(portion for portion in taken if portion)
    assert [batch.is_preview for batch in first] == [True]
    assert run.steps.step == 1_000


def test_a_reader_that_fails_is_seen_and_tried_again(writer):
    class Failing(RunReader):
        num_calls = 0

        def read(self):
            self.num_calls += 1
            if self.num_calls == 2:
                raise RuntimeError("the mount is gone")
            return super().read()

    feed = Feed(Failing(writer.run))
    feed.start()
    run, states = Run(), []

    def is_back(run):
        states.append(run.verdict(time.monotonic_ns(), time.time_ns()).state)
        return "blind" in states[1:] and states[-1] != "blind"

    drain_until(feed, run, is_back)
    feed.stop()

    assert feed.is_alive is False


def test_an_idle_feed_is_woken_by_the_file_system(writer, monkeypatch):
    # With these the feed is idle at once, and without a wake it would sleep on.
    monkeypatch.setattr(thread, "_FAST_FOR_S", 0.0)
    monkeypatch.setattr(thread, "_SLOW_FOR_S", 0.0)
    monkeypatch.setattr(thread, "IDLE_S", 10 * PATIENCE_S)
    feed = Feed(RunReader(writer.run))
    feed.start()
    run = drain_until(feed, Run(), lambda r: r.directory.newest_attempt == 1)
    is_watching = wait_until(lambda: feed._observer is not None)
    writer.emit(0, ev.StepDone, step=4)

    drain_until(feed, run, lambda r: r.steps.step == 4)
    feed.stop()

    assert is_watching


def test_without_notifications_it_polls_and_says_so(writer, monkeypatch):
    def refuse(path, wake):
        raise OSError("inotify instance limit reached")

    monkeypatch.setattr(thread, "_FAST_FOR_S", 0.0)
    monkeypatch.setattr(thread, "_SLOW_FOR_S", 0.0)
    monkeypatch.setattr(thread, "IDLE_S", 0.05)
    monkeypatch.setattr(thread, "_observe", refuse)
    feed = Feed(RunReader(writer.run))
    feed.start()

    run = drain_until(feed, Run(), lambda r: r.is_polling)
    writer.emit(0, ev.StepDone, step=4)
    drain_until(feed, run, lambda r: r.steps.step == 4)
    feed.stop()

    assert run.is_polling


def test_nobody_taking_bounds_what_waits(writer, monkeypatch):
    monkeypatch.setattr(thread, "_MAX_WAITING", 3)
    writer.steps(1, 4_000)
    feed = Feed(RunReader(writer.run))
    feed.start()
    is_full = wait_until(lambda: len(feed._batches) >= 3)

    num_waiting = len(feed._batches)
    feed.stop()

    assert is_full
    assert num_waiting == 3


def test_stopping_a_feed_that_never_ran_is_nothing(writer):
    feed = Feed(RunReader(writer.run))

    feed.stop()

    assert not feed.is_alive


def wait_until(is_true):
    deadline = time.monotonic() + PATIENCE_S
    while not is_true() and time.monotonic() < deadline:
        time.sleep(0.01)
    return is_true()
