"""Where a curve may jump it is marked, by round and by step, and whose it is."""

from agent.rundir.events import OptimizerNorms, OptimizerReset, RoundCommitted
from opsdash.widgets.chart import Chart
from tests.run_states import STATES
from tests.screen_text import screen_text
from tests.watched import refreshed, still_clocks, watching


def marks(app):
    return {(m.x, m.letter, m.text) for c in app.watch.query(Chart) for m in c._marks}


async def test_a_round_that_was_restored_is_marked_and_says_from_where(tmp_path):
    writer = STATES["federated"](tmp_path / "run")
    committed = {"members": (), "num_selected": 0, "round_ns": 9, "model_digest": "m"}
    restored = {"reason": "restored", "source": "client-1 round 3", "loss": 0.4}
    writer.emit("server", RoundCommitted, round_num=9, **committed, **restored)

    async with watching(writer.path, clocks=still_clocks(writer)) as (app, pilot):
        marked = marks(app)
        await pilot.press("6")
        await refreshed(app, pilot)

        assert marked == {(9, "R", "restored from client-1 round 3")}
        assert "restored from client-1 round 3" in screen_text(app)


async def test_only_the_client_that_is_shown_has_its_resets_marked(tmp_path):
    writer = STATES["federated"](tmp_path / "run")
    for client, step in (("client-1", 40), ("client-2", 70)):
        writer.emit(client, OptimizerNorms, optimizer="SGD", grad=1.0, step=step)
        cleared = {"optimizer": "SGD", "reason": "away", "before": {}, "after": {}}
        writer.emit(client, OptimizerReset, step=step, **cleared)

    async with watching(writer.path, clocks=still_clocks(writer)) as (app, pilot):
        await pilot.press("4")
        await refreshed(app, pilot)
        first = {m.x for m in app.watch.pane.query(Chart)[0]._marks}
        await pilot.press("n")
        second = {m.x for m in app.watch.pane.query(Chart)[0]._marks}

        assert (first, second) == ({40}, {70})
