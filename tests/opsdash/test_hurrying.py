"""While a long past is read the app looks oftener, and never ever oftener."""

from agent.rundir.layout import RunDir
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
