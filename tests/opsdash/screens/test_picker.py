"""A directory of runs: what each one's verdict is, and going to one of them."""

import pytest

from opsdash.screens.picker import PickerScreen
from opsdash.screens.watch import WatchScreen
from opsdash.widgets.record_table import RecordTable
from tests.run_states import STATES
from tests.runs import RunWriter, dead_process
from tests.screen_text import screen_text
from tests.watched import WatchedApp, until

SIZES = [(120, 36), (80, 24)]


@pytest.fixture
def runs(tmp_path):
    """A run that lives, one that died, one that ended; and what is no run."""
    root = tmp_path / "runs"
    STATES["live"](root / "team" / "live")
    dead = RunWriter(root / "died", process=dead_process())
    dead.begin()
    dead.steps(1, 30)
    dead.checkpoint(20)
    ended = RunWriter(root / "ended")
    ended.begin()
    ended.steps(1, 10)
    ended.end()
    (root / "notes").mkdir()
    (root / "notes" / "run.txt").write_text("no run")
    return root


def lines_of(app):
    """The rows that name a run, by the run's name."""
    rows = [line.split() for line in screen_text(app).splitlines()]
    return {row[0]: " ".join(row) for row in rows if row and row[0] in NAMES}


NAMES = ("team/live", "died", "ended")


async def judged(app, pilot):
    def all_told():
        told = lines_of(app)
        return len(told) == len(NAMES) and "reading" not in " ".join(told.values())

    await until(pilot, all_told, "every verdict")
    return lines_of(app)


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
async def test_every_run_is_listed_with_its_verdict(runs, size):
    app = WatchedApp(None, runs=runs)

    async with app.run_test(size=size) as pilot:
        told = await judged(app, pilot)

        assert "3 runs below" in screen_text(app)
        assert "dead 30 10" in told["died"]
        assert "finished 10 - " in told["ended"]
        assert told["died"].startswith("died ddp dead 30 10 every process")
        assert "notes" not in screen_text(app)


async def test_runs_are_ordered_by_how_much_they_need_somebody(runs):
    app = WatchedApp(None, runs=runs)

    async with app.run_test(size=(120, 36)) as pilot:
        await judged(app, pilot)
        table = app.screen.query_one(RecordTable)
        by_state = 2
        for _ in range(by_state + 1):
            await pilot.press("o")
        await pilot.pause()
        order = list(lines_of(app))

        assert table.has_focus_within
        assert order.index("died") < order.index("ended")


async def test_a_run_is_chosen_left_and_another_chosen(runs):
    app = WatchedApp(None, runs=runs)

    async with app.run_test(size=(120, 36)) as pilot:
        await judged(app, pilot)
        await choose(pilot, "died")
        await until(pilot, lambda: watched(app) == "died")
        await pilot.press("a")
        await until(pilot, lambda: isinstance(app.screen, PickerScreen))
        await judged(app, pilot)
        await choose(pilot, "ended")
        await until(pilot, lambda: watched(app) == "ended")
        await until(pilot, lambda: "completed at step 10" in screen_text(app))


async def choose(pilot, name):
    await pilot.press("slash", *name, "enter")
    await pilot.pause()
    await pilot.press("enter")


def watched(app):
    is_there = isinstance(app.screen, WatchScreen) and app.attached is not None
    return app.attached.run.path.name if is_there else None
