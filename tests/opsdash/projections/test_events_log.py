"""The list of events: bounded, filtered, and found again."""

import pytest

from agent.rundir import events as ev
from opsdash.projections import events_log as module
from opsdash.projections.event_words import Severity
from opsdash.projections.events_log import EventFilter
from tests.runs import RunWriter, Watcher


@pytest.fixture
def writer(tmp_path):
    writer = RunWriter(tmp_path / "run")
    writer.begin()
    return writer


def log_of(writer):
    return Watcher(writer.run).run.events


def kinds(log, numbers=None):
    numbers = range(log.first, log.stop) if numbers is None else numbers
    return [log.row(number).kind for number in numbers]


def test_heartbeats_are_no_rows(writer):
    writer.beat()
    writer.emit(0, ev.StepDone, step=1)

    assert sorted(kinds(log_of(writer))) == ["run_started", "run_started", "step_done"]


def test_what_matters_keeps_its_words_and_the_rest_does_not(writer):
    writer.emit(0, ev.StepDone, step=1, loss=2.0)
    writer.emit(0, ev.NonfiniteFound, tensor="head.weight", where="gradient", step=1)
    log = log_of(writer)

    texts = {row.kind: row.text for row in map(log.row, range(log.stop))}

    assert texts["step_done"] is None
    assert texts["nonfinite_found"] == "head.weight is not finite (gradient)"


def test_filters_by_severity_process_kind_step_and_attempt(writer):
    writer.steps(1, 3)
    writer.emit(1, ev.NonfiniteFound, tensor="w", where="loss", step=2)
    writer.begin()
    log = log_of(writer)

    found = {
        "severe": kinds(log, log.select(EventFilter(min_severity=Severity.WARNING))),
        "node": {log.row(n).node for n in log.select(EventFilter(node="rank-00001"))},
        "kind": kinds(log, log.select(EventFilter(kinds=frozenset({"step_done"})))),
        "step": len(log.select(EventFilter(step=2))),
        "attempt": kinds(log, log.select(EventFilter(attempt=2))),
        "nothing": log.select(EventFilter(kinds=frozenset({"no_such_kind"}))),
    }

    assert found == {
        "severe": ["nonfinite_found"],
        "node": {"rank-00001"},
        "kind": ["step_done"] * 6,
        "step": 3,
        "attempt": ["run_started"] * 2,
        "nothing": [],
    }


def test_the_newest_rows_that_matter_are_found_among_many_that_do_not(writer):
    for step in (3, 7):
        writer.emit(0, ev.NonfiniteFound, tensor="w", where="loss", step=step)
        writer.steps(step + 1, step + 3)
    log = log_of(writer)

    def steps(num, among):
        newest = map(log.row, log.newest_with_words(num, among=among))
        return [row.step for row in newest if row.kind == "nonfinite_found"]

    assert steps(9, among=1000) == [7, 3]
    assert steps(1, among=1000) == [7]
    assert steps(9, among=8) == [7]
    assert steps(9, among=2) == []


def test_the_ring_is_bounded_and_numbers_stay(writer, monkeypatch):
    monkeypatch.setattr(module, "MAX_ROWS", 100)
    monkeypatch.setattr(module, "_BLOCK", 30)
    writer.steps(1, 200)
    log = log_of(writer)

    assert len(log) <= 100
    assert log.stop == 402
    assert log.first > 0
    assert log.row(log.stop - 1).step == 200
    with pytest.raises(IndexError):
        log.row(log.first - 1)


def test_words_of_rows_that_were_dropped_are_dropped_too(writer, monkeypatch):
    monkeypatch.setattr(module, "MAX_ROWS", 100)
    monkeypatch.setattr(module, "_BLOCK", 50)
    for step in range(500):
        writer.emit(0, ev.NonfiniteFound, tensor="w", where="loss", step=step)
    log = log_of(writer)

    assert len(log._texts) <= 100
    assert log.row(log.stop - 1).text


def test_a_line_that_is_no_event_is_a_row_with_its_reason(writer):
    writer.append("rank-00000", b'{"kind":"from_the_future"}\nrubbish\n')
    log = log_of(writer)

    found = {
        row.kind: (row.severity, row.text)
        for row in map(log.row, range(log.stop))
        if row.kind in (module.NEWER, module.UNREADABLE)
    }

    assert found[module.NEWER][0] is Severity.INFO
    assert found[module.UNREADABLE][0] is Severity.WARNING
    assert "rubbish" in found[module.UNREADABLE][1]


def test_rows_of_several_files_can_be_read_in_the_order_of_time(writer):
    for rank in (0, 1, 0, 1):
        writer.wait(1)
        writer.emit(rank, ev.PhaseChanged, phase="x")
    log = log_of(writer)

    numbers = log.by_time(log.select(EventFilter(kinds=frozenset({"phase_changed"}))))

    assert [log.row(n).node[-1] for n in numbers] == ["0", "1", "0", "1"]


def test_a_search_sees_kind_process_step_and_words(writer):
    writer.emit(1, ev.NonfiniteFound, tensor="head.weight", where="loss", step=42)
    log = log_of(writer)

    (number,) = log.select(EventFilter(min_severity=Severity.WARNING))

    assert log.search_text(number).startswith(
        "nonfinite_found rank-00001 42 head.weight"
    )
