"""The lines of jobs where there are more jobs than room."""

from opsdash.jobs.resuming import Resuming
from opsdash.operations.start import Stage
from opsdash.widgets.progress import JobLine, JobState
from tests.watched import until


async def look(watch, *states):
    """Show every job once, as the board does."""
    for state in states:
        await watch.show_job(state.title, state)


def titles(watch):
    return [line.state.title for line in watch.query(JobLine)]


RUNNING = [JobState(name) for name in ("one", "two", "three", "four")]


async def test_jobs_that_all_run_do_not_take_each_others_lines_in_turns(on):
    async with on("live") as (app, _):
        await look(app.watch, *RUNNING)
        first = list(app.watch.query(JobLine))
        await look(app.watch, *RUNNING)
        await look(app.watch, *RUNNING)

        assert titles(app.watch) == ["two", "three", "four"]
        assert list(app.watch.query(JobLine)) == first


async def test_a_job_without_a_line_tells_how_it_ended_and_takes_no_outcome_away(on):
    async with on("live") as (app, _):
        await look(app.watch, *RUNNING)
        await look(app.watch, JobState("one", outcome="failed"))
        told = titles(app.watch)
        await look(app.watch, *RUNNING[1:])

        assert told == ["three", "four", "one"]
        assert titles(app.watch) == told


async def test_a_new_job_takes_the_line_of_one_that_ended_first(on):
    async with on("live") as (app, _):
        await look(app.watch, *RUNNING[:2], JobState("three", outcome="ok"))
        await look(app.watch, *RUNNING[:2], RUNNING[3])

        assert titles(app.watch) == ["one", "two", "four"]


async def test_x_clears_the_lines_of_jobs_that_ended_where_none_can_be_stopped(on):
    async with on("live") as (app, pilot):
        await look(app.watch, RUNNING[0], JobState("two", outcome="failed"))
        await pilot.press("x")
        await pilot.pause()
        left, told = titles(app.watch), list(app.notes)
        await pilot.press("x")
        await pilot.pause()

        assert (left, told) == (["one"], [])
        assert app.notes == ["no job is running"]


class Start:
    """A trainer that was started and has not begun."""

    log_path = "resume.log"

    def poll(self):
        return Stage.STARTING


async def test_a_start_that_cannot_be_cancelled_is_not_denied(on):
    async with on("dead") as (app, pilot):
        app.attached.jobs.add(Resuming(Start(), "resume dead"))
        await until(pilot, lambda: titles(app.watch) == ["resume dead"])
        await pilot.press("x")
        await until(pilot, lambda: bool(app.notes))

        assert app.notes == ["resume dead: it goes on by itself, nothing can cancel it"]
