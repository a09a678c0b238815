"""Passes of the garbage collector wait for a pause in typing."""

import gc

import pytest

from opsdash.app import OpsdashApp
from opsdash.collector import Collector
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
    return clock, made, Collector(clock, lambda: made.append(clock.now_s))


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
