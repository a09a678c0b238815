"""Events under a filter that is worked off in slices."""

import pytest

from agent.rundir import events as ev
from opsdash.projections.event_words import Severity
from opsdash.projections.events_log import EventFilter
from opsdash.screens import event_rows as module
from opsdash.screens.event_rows import EventRows
from tests.runs import RunWriter, Watcher

NUM_STEPS = 3_000


@pytest.fixture
def rows(tmp_path):
    writer = RunWriter(tmp_path / "run", world_size=1)
    writer.begin()
    writer.steps(1, NUM_STEPS)
    writer.emit(0, ev.NonfiniteFound, tensor="head", where="gradient", step=NUM_STEPS)
    return EventRows(Watcher(writer.run).run.events, writer.run)


def finish(rows):
    num_calls = 1
    while rows.advance():
        num_calls += 1
    return num_calls


def kinds(rows):
    return {rows.log.row(number).kind for number in rows.numbers()}


def test_a_filter_stops_after_a_moment_and_goes_on_where_it_was(rows, monkeypatch):
    monkeypatch.setattr(module, "_LOOK_S", 0.0)

    rows.restrict("step_done", EventFilter())
    num_calls = finish(rows)

    assert num_calls > NUM_STEPS // module._SLICE
    assert len(rows) == NUM_STEPS
    assert [rows.find(rows.key(index)) for index in (0, 7, NUM_STEPS - 1)] == [
        0,
        7,
        NUM_STEPS - 1,
    ]


def test_every_condition_holds_for_what_is_found(rows):
    rows.restrict("!started", EventFilter(min_severity=Severity.INFO))
    finish(rows)

    assert kinds(rows) == {"nonfinite_found"}
    assert rows.find(0) is None


def test_events_that_the_log_dropped_are_forgotten(rows, monkeypatch):
    monkeypatch.setattr("opsdash.projections.events_log._BLOCK", 1_000)
    rows.restrict("step_done", EventFilter())
    finish(rows)
    before = list(rows.numbers())

    rows.log._drop_block()
    finish(rows)

    assert rows.key(0) == rows.log.first > before[0]
    assert list(rows.numbers()) == [n for n in before if n >= rows.log.first]


def test_an_expression_that_takes_too_long_is_taken_literally(rows, monkeypatch):
    monkeypatch.setattr(module, "_PATIENCE_S", 0.05)
    monkeypatch.setattr(
        type(rows.log), "search_text", lambda log, number: "a" * 40 + "!"
    )

    rows.restrict("(a+)+$", EventFilter())
    finish(rows)

    assert rows.is_literal
    assert len(rows) == 0
