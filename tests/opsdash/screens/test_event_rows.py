"""Events under a filter that is worked off in slices."""

from types import SimpleNamespace

import pytest

from agent.rundir import events as ev
from opsdash.projections.event_words import Severity
from opsdash.projections.events_log import EventFilter
from opsdash.screens import event_rows as module
from opsdash.screens.event_lines import EventLines
from opsdash.screens.event_rows import EventRows
from tests.runs import RunWriter, Watcher

NUM_STEPS = 3_000


def rows_of(writer, watcher):
    lines = EventLines(writer.run, lambda: None)
    return EventRows(watcher.run.events, lines)


@pytest.fixture
def rows(tmp_path):
    writer = RunWriter(tmp_path / "run", world_size=1)
    writer.begin()
    writer.steps(1, NUM_STEPS)
    writer.emit(0, ev.NonfiniteFound, tensor="head", where="gradient", step=NUM_STEPS)
    return rows_of(writer, Watcher(writer.run))


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


@pytest.fixture
def mixed(tmp_path):
    """Events of two ranks, of several kinds, severities and steps."""
    writer = RunWriter(tmp_path / "mixed", world_size=2)
    writer.begin()
    for step in (1, 2, 3):
        writer.steps(step, step)
    writer.emit(1, ev.NonfiniteFound, tensor="head", where="gradient", step=2)
    writer.emit("server", ev.RoundStarted, clients=(), model_digest="m", round_num=9)
    return rows_of(writer, Watcher(writer.run))


def key_of(column):
    return {
        "who": lambda row: row.node,
        "kind": lambda row: row.kind,
        "!": lambda row: row.severity,
        "step": lambda row: max(row.step or 0, row.round_num or 0),
    }[column]


@pytest.mark.parametrize("is_descending", [False, True])
@pytest.mark.parametrize("column", ["who", "kind", "!", "step"])
def test_events_are_sorted_by_a_column_and_found_again(mixed, column, is_descending):
    mixed.order_by(column, is_descending=is_descending)
    finish(mixed)

    rows = [mixed.log.row(number) for number in mixed.numbers()]
    keys = [key_of(column)(row) for row in rows]
    assert keys == sorted(keys, reverse=is_descending)
    assert len(rows) == len(mixed) == len(mixed.log)
    assert all(mixed.find(mixed.key(i)) == i for i in range(len(mixed)))


def test_what_a_filter_leaves_is_sorted_too(mixed):
    mixed.order_by("time", is_descending=True)
    mixed.restrict("step_done", EventFilter())
    finish(mixed)

    numbers = list(mixed.numbers())
    assert numbers == sorted(numbers, reverse=True)
    assert kinds(mixed) == {"step_done"}
    assert mixed.find(mixed.log.stop) is None


def test_new_events_come_in_after_a_rest_and_not_before(tmp_path, monkeypatch):
    clock = SimpleNamespace(now_s=0.0)
    monkeypatch.setattr(module.time, "monotonic", lambda: clock.now_s)
    writer = RunWriter(tmp_path / "run", world_size=1)
    writer.begin()
    watcher = Watcher(writer.run)
    rows = rows_of(writer, watcher)
    rows.order_by("time", is_descending=True)
    finish(rows)
    writer.steps(1, 4)
    watcher.read()

    finish(rows)
    resting = len(rows)
    clock.now_s += module._LEAST_REST_S
    finish(rows)

    assert resting == 1
    assert len(rows) == len(rows.log)
    assert rows.key(0) == rows.log.stop - 1


def test_an_event_that_was_dropped_meanwhile_leaves_its_place_empty(mixed, monkeypatch):
    monkeypatch.setattr("opsdash.projections.events_log._BLOCK", 3)
    mixed.order_by("time", is_descending=True)
    finish(mixed)

    mixed.log._drop_block()

    assert [cell.text for cell in mixed.row(len(mixed) - 1)] == ["-"]
    assert mixed.row(0)[4].text == mixed.log.row(mixed.log.stop - 1).kind
