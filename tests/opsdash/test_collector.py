"""Passes of the garbage collector wait for a pause in typing."""

import gc

import pytest

from opsdash.app import OpsdashApp
from opsdash.collector import _MUCH, _TOO_MUCH, Collector
from opsdash.theme import appearance


class Clock:
    """A clock that stands until it is moved."""

    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def passes():
    """How many passes there were, and a collector that makes them."""
    clock, made = Clock(), []
    return clock, made, Collector(clock, lambda: made.append(clock.now_s), lambda: 0)


def test_it_collects_every_ten_seconds_where_nobody_types(passes):
    clock, made, collector = passes
    for second in range(1, 31):
        clock.now_s = 1000.0 + second
        collector.look()
    assert made == [1010.0, 1020.0, 1030.0]


def test_a_pass_waits_until_the_keys_pause(passes):
    clock, made, collector = passes
    for tenth in range(1, 151):
        clock.now_s = 1000.0 + tenth / 10
        collector.note_key()
        collector.look()
    assert made == []
    clock.now_s += 1.0
    collector.look()
    assert made == [1016.0]


def test_who_types_without_a_pause_meets_one_pass_a_minute(passes):
    clock, made, collector = passes
    for second in range(1, 131):
        clock.now_s = 1000.0 + second
        collector.note_key()
        collector.look()
    assert made == [1060.0, 1120.0]


@pytest.mark.parametrize(
    ("num_passes", "quiet_s", "is_made"),
    [
        (_MUCH - 1, 0.3, False),
        (_MUCH, 0.2, False),
        (_MUCH, 0.3, True),
        (_TOO_MUCH, 0.0, True),
    ],
)
def test_much_that_was_left_behind_shortens_the_wait(num_passes, quiet_s, is_made):
    clock, made = Clock(), []
    collector = Collector(clock, lambda: made.append(1), lambda: num_passes)

    clock.now_s += 5.0
    collector.note_key()
    clock.now_s += quiet_s
    collector.look()

    assert bool(made) is is_made


def test_what_is_left_behind_in_cycles_is_counted():
    gc.collect()
    made = []
    collector = Collector(collect=lambda: made.append(1))
    young, middle, never = gc.get_threshold()
    try:
        gc.set_threshold(1_000, 4, 1_000_000)
        kept = [[] for _ in range(6_500 * _TOO_MUCH)]
        collector.look()
    finally:
        gc.set_threshold(young, middle, never)

    assert made == [1], len(kept)


def test_the_collector_never_looks_at_everything_by_itself():
    before = gc.get_threshold()
    try:
        Collector().begin()
        young, middle, _ = gc.get_threshold()
        assert young * middle <= 10_000, "a pass over so many holds a key up"
        assert gc.get_freeze_count() > 0
        passes = gc.get_stats()[2]["collections"]
        kept = [[] for _ in range(300_000)]  # a quarter more than there is: its rule
        assert gc.get_stats()[2]["collections"] == passes, len(kept)
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()


async def test_the_app_tells_it_of_keys(tmp_path):
    look = appearance({"TERM": "xterm-256color"}, encoding="utf-8")
    app = OpsdashApp(None, look, runs=tmp_path)
    told = []
    app.collector.note_key = lambda: told.append(1)
    async with app.run_test() as pilot:
        await pilot.press("j")
        await pilot.press("k")
    assert told
