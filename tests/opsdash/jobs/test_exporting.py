"""Events that are written to a file beside the screen."""

import json
import threading
import time

import pytest

from agent.rundir.errors import RunDirError
from opsdash.jobs.exporting import _MAX_AHEAD, _SLICE, ExportJob
from opsdash.operations.export import EventExport, ExportedEvent
from opsdash.projections.event_words import Severity

LONG_S = 30


def told(number):
    line = json.dumps({"kind": "step_done", "step": number})
    where = ("0001/rank-00000.jsonl", 10 * number)
    what = (number, 1, "rank-00000", "step_done", Severity.INFO, number, None, "-")
    return ExportedEvent(*what, *where, line)


def followed(job):
    """Look at a job until it is over; return its last state."""
    deadline_s = time.monotonic() + LONG_S
    while (state := job.state()).is_running:
        assert time.monotonic() < deadline_s
        time.sleep(0.001)
    return state


def steps(path):
    return [json.loads(line)["step"] for line in path.read_text().splitlines()]


def test_every_event_is_written_in_order(tmp_path):
    num = 3 * _SLICE + 7
    job = ExportJob(tmp_path / "out.jsonl", range(num), lambda n: n, told)

    state = followed(job)

    assert (state.outcome, state.detail) == ("ok", f"{num:,} events")
    assert steps(tmp_path / "out.jsonl") == list(range(num))


def test_an_event_that_was_dropped_meanwhile_is_left_out(tmp_path):
    numbers = [5, 6, 7]
    job = ExportJob(
        tmp_path / "out.jsonl", numbers, lambda n: None if n == 6 else n, told
    )

    state = followed(job)

    assert state.outcome == "ok"
    assert steps(tmp_path / "out.jsonl") == [5, 7]


def test_the_log_is_asked_by_whoever_looks_and_lines_are_read_beside(tmp_path):
    asked, read = set(), set()

    def row_of(number):
        asked.add(threading.get_ident())
        return number

    def reading(number):
        read.add(threading.get_ident())
        return told(number)

    followed(ExportJob(tmp_path / "out.jsonl", range(9), row_of, reading))

    assert asked == {threading.get_ident()}
    assert len(read) == 1
    assert not asked & read


def test_a_line_that_cannot_be_read_holds_up_nobody_and_little_is_kept(tmp_path):
    go_on = threading.Event()

    def reading(number):
        assert go_on.wait(LONG_S)
        return told(number)

    handed = []
    job = ExportJob(
        tmp_path / "out.jsonl", range(10**6), lambda n: handed.append(n) or n, reading
    )
    states = [job.state() for _ in range(3 * _MAX_AHEAD)]
    num_handed = len(handed)
    job.cancel()
    go_on.set()
    state = followed(job)

    assert all(one.is_running for one in states)
    assert num_handed <= (_MAX_AHEAD + 1) * _SLICE
    assert state.outcome == "cancelled"
    assert not (tmp_path / "out.jsonl").exists()


def test_a_file_that_is_there_is_told_and_left_alone(tmp_path):
    path = tmp_path / "out.csv"
    path.write_text("precious")

    state = followed(ExportJob(path, range(9), lambda n: n, told))

    assert (state.outcome, path.read_text()) == ("failed", "precious")
    assert "cannot be written: File exists" in state.detail


def test_another_ending_is_refused_at_once(tmp_path):
    with pytest.raises(RunDirError, match="must end in"):
        ExportJob(tmp_path / "out.xlsx", [], lambda n: n, told)


def test_a_failure_half_way_is_told_once_the_file_is_removed(tmp_path, monkeypatch):
    removed = EventExport.discard

    def slowly(export):
        time.sleep(0.05)
        removed(export)

    monkeypatch.setattr(EventExport, "discard", slowly)

    def reading(number):
        if number == 2:
            raise OSError(28, "No space left on device")
        return told(number)

    state = followed(ExportJob(tmp_path / "out.csv", range(9), lambda n: n, reading))

    assert (state.outcome, state.detail) == ("failed", "No space left on device")
    assert not (tmp_path / "out.csv").exists()


def test_who_leaves_leaves_no_half_file(tmp_path):
    path = tmp_path / "out.jsonl"
    job = ExportJob(path, range(10**6), lambda n: n, told)
    job.state()

    job.leave()

    assert job.state().outcome == "cancelled"
    assert not path.exists()
