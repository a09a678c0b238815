"""When the app folds: oftener while it is behind, and after what a key shows."""

import pytest

from agent.rundir.layout import RunDir
from opsdash import app as module
from opsdash.jobs.attached import Attached
from tests.run_states import STATES
from tests.watched import WatchedApp, until


async def test_one_hurried_look_is_under_way_however_often_the_app_looks(
    tmp_path, monkeypatch
):
    writer = STATES["live"](tmp_path / "run")
    app = WatchedApp(RunDir(writer.path))
    hurried = []

    async with app.run_test() as pilot:
        await until(pilot, lambda: app.attached.folded.is_caught_up)
        monkeypatch.setattr(
            app, "set_timer", lambda _delay_s, look: hurried.append(look)
        )
        monkeypatch.setattr(Attached, "is_behind", True)

        for _ in range(5):
            await app._tick()
        first = len(hurried)
        await hurried[0]()

        assert first == 1
        assert len(hurried) == 2


@pytest.mark.parametrize(("latest_s", "is_folded"), [(60.0, False), (0.0, True)])
async def test_what_a_key_shows_comes_before_what_was_read_but_not_for_long(
    tmp_path, monkeypatch, latest_s, is_folded
):
    writer = STATES["live"](tmp_path / "run")
    app = WatchedApp(RunDir(writer.path))
    folded = []
    monkeypatch.setattr(module, "_KEY_FIRST_S", 60.0)

    async with app.run_test() as pilot:
        await until(pilot, lambda: app.attached.folded.is_caught_up)
        monkeypatch.setattr(Attached, "take", lambda _attached: folded.append(1))
        await app._tick()
        before = len(folded)

        await pilot.press("down")
        monkeypatch.setattr(module, "_LATEST_FOLD_S", latest_s)
        folded.clear()
        await app._tick()

        assert before > 0
        assert bool(folded) is is_folded
