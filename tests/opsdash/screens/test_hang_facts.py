"""What pane 2 says of ranks that stand still where no barrier has a name."""

import os

import pytest

from agent.rundir import events as ev
from agent.rundir.layout import rank_stem
from tests.runs import SECOND, RunWriter
from tests.screen_text import screen_text
from tests.watched import refreshed, still_clocks, until, watching

_GROUP = "0 default_pg"
_NOBODY = "nobody waits at a barrier"


@pytest.fixture
def writer(tmp_path):
    """Four ranks that have stood still for eight seconds; rank 1 is silent too."""
    writer = RunWriter(tmp_path / "run", world_size=4)
    writer.begin()
    writer.steps(1, 20)
    writer.beat(progress=20, step=20)
    for _ in range(8):
        writer.wait(1)
        writer.beat(0, 2, 3, progress=20, step=20)
    return writer


async def pane_of(writer, *, size=(120, 36), **options):
    """Return what pane 2 shows of it."""
    clocks = still_clocks(writer)
    silent_ns = writer.time_ns - 8 * SECOND
    os.utime(writer.file(rank_stem(1)), ns=(silent_ns, silent_ns))
    async with watching(writer.path, size=size, clocks=clocks, **options) as shown:
        app, pilot = shown
        await pilot.press("2")
        await refreshed(app, pilot)
        await until(pilot, lambda: "reading its stacks" not in screen_text(app))
        return screen_text(app)


def sample(writer, rank):
    started_ns = (writer.time_ns - 8 * SECOND,)
    writer.emit(
        rank,
        ev.CollectivesSampled,
        group=_GROUP,
        first_id=70,
        started_ns=started_ns,
        is_still=True,
    )


@pytest.mark.parametrize("size", [(120, 36), (80, 24)])
async def test_who_is_silent_and_who_stands_still_is_told_before_any_limit(
    writer, size
):
    shown = await pane_of(writer, size=size)

    assert "rank 1: no heartbeat for" in shown  # says the verdict
    assert _NOBODY not in shown
    assert "below: who stands still" in shown
    assert "rank 1 silent; ranks 0, 2-3 without progress" in shown
    assert "no progress for 9.0 s, heard 9 s ago" in " ".join(shown.split())
    assert shown.count("no stacks yet: K asks for them") == 1


async def test_the_collective_in_which_a_rank_stands_is_told_with_its_time(writer):
    sample(writer, 2)

    shown = await pane_of(writer)

    assert f"step 20, in collective 70 of group {_GROUP} for 9.0 s" in shown


async def test_a_collective_that_was_named_as_hanging_has_its_row_and_its_missing(
    writer,
):
    sample(writer, 2)
    writer.emit(
        0,
        ev.HangNamed,
        barrier=f"gloo:all_reduce 70 of group {_GROUP}",
        missing=(1,),
        waited_ns=8 * SECOND,
        index=70,
        group=_GROUP,
        limit_ns=7 * SECOND,
    )

    shown = await pane_of(writer)

    assert f"ranks 0, 2 waiting at gloo:all_reduce 70 of group {_GROUP}" in shown
    assert _NOBODY not in shown
    assert "2/3 in" in shown
    assert (
        f"hang    gloo:all_reduce 70 of group {_GROUP} for 9.0 s, missing: 1" in shown
    )
    assert "rank 1  training, step 20" in shown


async def test_a_run_that_goes_on_has_nobody_who_stands_still(writer):
    writer.steps(21, 30)
    writer.beat(step=30)
    os.utime(writer.file(rank_stem(1)))
    async with watching(writer.path, clocks=still_clocks(writer)) as (app, pilot):
        await pilot.press("2")
        await refreshed(app, pilot)

        assert _NOBODY in screen_text(app)
        assert "stands still" not in screen_text(app)
