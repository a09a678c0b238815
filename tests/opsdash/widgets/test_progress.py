import pytest

from opsdash.widgets.progress import JobLine, JobState
from tests.screen_text import assert_screen, screen_text
from tests.widget_app import WidgetApp

JOBS = (
    JobState("verify step-00001200", 0.37, "1.2 GiB of 3.4 GiB"),
    JobState("verify step-00001100", None, "opening"),
    JobState("verify step-00001000", 1.0, "3.4 GiB, every digest matches", "ok"),
    JobState("verify step-00000900", 0.2, "record 17 has another CRC-32", "failed"),
    JobState("verify step-00000800", 0.5, "", "cancelled"),
)


@pytest.mark.parametrize(
    ("name", "size", "options"),
    [
        ("80x6", (80, 6), {}),
        ("30x6", (30, 6), {}),
        ("ascii-60x6", (60, 6), {"ascii_only": True}),
    ],
)
async def test_jobs_at_every_size(name, size, options):
    app = WidgetApp(*[JobLine(job) for job in JOBS], **options)

    async with app.run_test(size=size) as pilot:
        await pilot.pause()

        assert_screen(app, f"widgets/jobs-{name}")
        assert not options or screen_text(app).isascii()


async def test_x_asks_a_running_job_to_stop():
    line = JobLine(JOBS[0])
    app = WidgetApp(line)

    async with app.run_test(size=(80, 2)) as pilot:
        line.focus()
        await pilot.press("x")
        await pilot.pause()

        assert [m.job_line for m in app.told_of(JobLine.CancelRequested)] == [line]


@pytest.mark.parametrize(
    "state", [JOBS[2], JobState("resume run", None, "starting", can_cancel=False)]
)
async def test_a_job_that_ended_or_goes_on_by_itself_is_not_cancelled(state):
    line = JobLine(state)
    app = WidgetApp(line)

    async with app.run_test(size=(80, 2)) as pilot:
        line.focus()
        await pilot.press("x")
        await pilot.pause()

        assert app.told_of(JobLine.CancelRequested) == []
        assert "x cancels" not in screen_text(app)


async def test_progress_sends_little():
    line = JobLine(JobState("verify step-00001200", 0.37, "1.2 GiB of 3.4 GiB"))
    app = WidgetApp(line)

    async with app.run_test(size=(80, 2)) as pilot:
        await pilot.pause()
        app.num_bytes = 0
        line.show(JobState("verify step-00001200", 0.38, "1.3 GiB of 3.4 GiB"))
        await pilot.pause()

        assert 0 < app.num_bytes < 400
        assert app.differing_lines() == []


@pytest.mark.parametrize("done_frac", [-1.0, 0.0, 1.0, 7.0])
async def test_a_share_outside_its_range_stays_in_the_bar(done_frac):
    app = WidgetApp(JobLine(JobState("job", done_frac)))

    async with app.run_test(size=(60, 2)) as pilot:
        await pilot.pause()

        bar = screen_text(app).split("\n")[0]
        assert bar.count("█") + bar.count("░") == 20
