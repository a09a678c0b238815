"""Lines of events, read beside the screen."""

import threading

import pytest

from opsdash.feed.cursor import read_line
from opsdash.screens import event_lines as module
from opsdash.screens.event_lines import PAGE_ROWS, EventLines
from opsdash.screens.event_rows import READING, EventRows
from tests.runs import RunWriter, Watcher

LONG_S = 30
NUM_STEPS = 3 * PAGE_ROWS


class Shown:
    """Rows of a run whose disk answers when it is let."""

    def __init__(self, path, monkeypatch):
        writer = RunWriter(path, world_size=1)
        writer.begin()
        writer.steps(1, NUM_STEPS)
        self.answered = threading.Semaphore(0)
        self.begun, self.go_on = threading.Event(), threading.Event()
        self.read = []
        monkeypatch.setattr(module, "read_line", self._read)
        monkeypatch.setattr("opsdash.operations.beside.PATIENCE_S", 0.01)
        self.lines = EventLines(writer.run, self.answered.release)
        self.rows = EventRows(Watcher(writer.run).run.events, self.lines)

    def _read(self, run, file, offset):
        self.begun.set()
        assert self.go_on.wait(LONG_S)
        self.read.append(offset)
        return read_line(run, file, offset)

    def words(self, index):
        return self.rows.row(index)[-1].text

    def wait(self):
        """Wait until something was read; return whether it was taken over only now."""
        assert self.answered.acquire(timeout=LONG_S)
        return self.lines.take()


@pytest.fixture
def shown(tmp_path, monkeypatch):
    shown = Shown(tmp_path / "run", monkeypatch)
    yield shown
    shown.go_on.set()
    shown.lines.stop()
    # Or it would go on in the next test, with that one's reading.
    assert shown.lines._beside.join(LONG_S)


def test_words_that_the_log_kept_are_there_without_reading(shown):
    assert "started" in shown.rows.row(0)[4].text
    assert shown.words(0) not in ("", READING)
    assert shown.read == []


def test_a_disk_that_does_not_answer_holds_up_nobody(shown):
    words = [shown.words(index) for index in range(1, NUM_STEPS)]

    assert set(words) == {READING}


def test_a_page_is_read_at_once_and_only_once(shown):
    shown.words(1)
    shown.words(2)
    shown.go_on.set()
    is_news = shown.wait()

    words = [shown.words(index) for index in range(1, 1 + PAGE_ROWS)]

    assert is_news
    assert READING not in words
    assert len(set(words)) > 1
    assert len(shown.read) == PAGE_ROWS


def test_what_is_scrolled_to_is_read_before_what_was_passed_by(shown):
    shown.words(1)
    assert shown.begun.wait(LONG_S)
    shown.words(1 + PAGE_ROWS)
    shown.words(1 + 2 * PAGE_ROWS)
    shown.go_on.set()
    for _ in range(3):
        shown.wait()

    begun = shown.read[::PAGE_ROWS]
    assert begun == [min(begun), max(begun), sorted(begun)[1]]


def test_a_line_is_copied_as_it_stands_and_one_that_is_late_is_not(shown, monkeypatch):
    row = shown.rows.log.row(1)
    late = shown.lines.line(1, row)
    shown.go_on.set()
    shown.wait()
    monkeypatch.setattr(module, "_COPY_S", LONG_S)

    there = shown.lines.line(1, row)

    assert late == ""
    assert there.startswith("{")
    assert '"step_done"' in there
