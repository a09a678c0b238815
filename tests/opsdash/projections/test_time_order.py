"""Lines of several files in the order in which they were written."""

from hypothesis import given
from hypothesis import strategies as st

from agent.rundir import events as ev
from opsdash.projections import time_order as module
from opsdash.projections.batch import Batch, Directory, Lines, Origin, UnreadableLine
from opsdash.projections.time_order import Span, TimeOrder
from tests.runs import RunWriter, Watcher


def lines_of(file: str, *times: int, unreadable: int = 0) -> Lines:
    origin = Origin(1, file, file, 0, 0, 0, is_live=True)
    events = tuple(
        ev.PhaseChanged(time_ns=time, mono_ns=0, node=file, phase="training")
        for time in times
    )
    bad = tuple(UnreadableLine(9, "x", "torn", False) for _ in range(unreadable))
    return Lines(origin, tuple(range(len(times))), events, bad, unreadable, 0)


def batch(*lines: Lines, backlog: int = 0) -> Batch:
    return Batch(0, 0, Directory(), lines, backlog_bytes=backlog)


def times(spans) -> list[int]:
    return [event.time_ns for span in spans for event in events_of(span)]


def events_of(span: Span):
    return span.lines.events[span.start : span.stop]


def ends(span: Span) -> bool:
    """Whether what is no event goes with it."""
    return span.stop == len(span.lines.events)


def test_two_files_of_one_batch_are_merged():
    order = TimeOrder()

    merged = list(order.take(batch(lines_of("a", 1, 4, 5), lines_of("b", 2, 3, 6))))

    assert times(merged) == [1, 2, 3, 4, 5, 6]
    assert [span.lines.origin.file for span in merged] == ["a", "b", "a", "b"]
    assert [span[1:] for span in merged] == [(0, 1), (0, 2), (1, 3), (2, 3)]


def test_what_a_later_batch_may_precede_waits_for_it():
    order = TimeOrder()

    first = list(order.take(batch(lines_of("a", 1, 9), lines_of("b", 2, 3), backlog=1)))
    second = list(order.take(batch(lines_of("b", 4, 12))))

    assert times(first) == [1, 2, 3]
    assert times(second) == [4, 9, 12]


def test_a_clock_that_goes_back_does_not_reorder_its_own_file():
    order = TimeOrder()

    merged = list(order.take(batch(lines_of("a", 5, 1, 6), lines_of("b", 2))))

    assert times(merged) == [2, 5, 1, 6]


def test_a_clock_that_is_far_ahead_holds_nothing_for_ever(monkeypatch):
    monkeypatch.setattr(module, "_MAX_HELD", 3)
    order = TimeOrder()
    taken = list(order.take(batch(lines_of("b", 1), lines_of("a", 10**30), backlog=1)))
    for number in range(4):
        more = batch(lines_of("b", 5), lines_of("a", 10**30 + number), backlog=1)
        taken += order.take(more)

    assert len(times(taken)) >= 5
    assert len(order._held) <= 4


def test_unreadable_lines_are_told_once_and_with_their_neighbour():
    order = TimeOrder()

    first = list(
        order.take(
            batch(lines_of("a", 1, 9, unreadable=2), lines_of("b", 2), backlog=1)
        )
    )
    second = list(order.take(batch()))

    assert not [span for span in first if ends(span) and span.lines.unreadable]
    assert [span.lines.num_undecodable for span in second if ends(span)] == [2]
    assert times(second) == [9]


def test_lines_without_any_event_are_passed_on_at_once():
    order = TimeOrder()

    taken = list(order.take(batch(lines_of("a", unreadable=1), backlog=1)))

    assert [len(span.lines.unreadable) for span in taken if ends(span)] == [1]


@given(st.lists(st.lists(st.lists(st.integers(0, 50), max_size=5), max_size=4)))
def test_every_event_comes_out_once_and_each_file_in_its_order(batches):
    order = TimeOrder()
    taken: list[Span] = []
    given_times: dict[str, list[int]] = {}
    for index, files in enumerate(batches):
        groups = [lines_of(f"f{n}", *found) for n, found in enumerate(files)]
        for group in groups:
            told = [event.time_ns for event in group.events]
            given_times.setdefault(group.origin.file, []).extend(told)
        taken += order.take(batch(*groups, backlog=index + 1 < len(batches)))

    found: dict[str, list[int]] = {}
    for span in taken:
        found.setdefault(span.lines.origin.file, []).extend(times([span]))
    assert found == given_times


def test_the_events_pane_shows_ranks_interleaved_after_attaching_late(tmp_path):
    writer = RunWriter(tmp_path / "run")
    writer.begin()
    for _ in range(3_000):  # more than one piece of each file
        writer.wait(0.01)
        for rank in (0, 1):
            writer.emit(rank, ev.NonfiniteFound, tensor="w", where="loss", step=1)

    log = Watcher(writer.run).run.events

    seen = [log.row(number).time_ns for number in range(log.first, log.stop)]
    assert len(seen) == 6_002
    assert seen == sorted(seen)
