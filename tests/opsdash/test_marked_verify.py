"""Checkpoints that were marked are read again together, until that is stopped."""

import time

from agent.rundir.operations import read_operations
from agent.rundir.verify.watch import VerifyCancelled
from opsdash.widgets.progress import JobLine
from tests.watched import until


async def test_marked_ones_are_read_again_with_progress_until_x_stops_it(
    on, monkeypatch
):
    def half_of_it(_target, _level, *, progress, is_cancelled):
        progress(50, 100)
        while not is_cancelled():
            time.sleep(0.01)
        raise VerifyCancelled

    monkeypatch.setattr("opsdash.operations.verify.verify_target", half_of_it)
    async with on("live") as (app, pilot):
        await pilot.press("3", "m", "down", "m", "v")
        await until(pilot, lambda: len(app.watch.query(JobLine)) == 1)
        line = app.watch.query_one(JobLine)
        await until(pilot, lambda: line.state.done_frac == 0.25)
        running = line.state
        await pilot.press("x")
        await until(pilot, lambda: not line.state.is_running)

        assert (running.title, running.detail) == ("verify 2 of them", "50 B of 100 B")
        assert line.state.outcome == "cancelled"
        assert line.state.detail == "0 of 2 were read"
        (written,) = read_operations(app.attached.run)
        assert (written.subject, written.stage) == ("step-00000100", "cancelled")
