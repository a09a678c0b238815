"""How often jobs are looked at while the app looks at everything."""

from types import SimpleNamespace

from opsdash.jobs import board as module
from opsdash.jobs.board import JobBoard
from opsdash.widgets.progress import JobState


class Counted:
    """A job that counts how often it is looked at."""

    title = "count"
    num_looks = 0

    def state(self):
        self.num_looks += 1
        return JobState(self.title)

    def cancel(self):
        """It never ends."""

    leave = cancel


class Lines:
    """What a screen does with jobs, without one."""

    async def show_job(self, key, state):
        """Nothing is drawn."""


async def test_jobs_are_looked_at_four_times_a_second_however_often_it_is_asked(
    monkeypatch,
):
    now = SimpleNamespace(s=100.0)
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now.s))
    board, job = JobBoard(), Counted()
    board.add(job)

    for _ in range(100):  # two seconds at the pace of the app
        await board.show_on(Lines())
        now.s += 0.02

    assert job.num_looks == 8


class Going(Counted):
    """A job that says whether it can be cancelled."""

    def __init__(self, *, can_cancel):
        self.can_cancel, self.is_cancelled = can_cancel, False

    def state(self):
        return JobState(self.title, can_cancel=self.can_cancel)

    def cancel(self):
        self.is_cancelled = True


def test_the_newest_job_that_can_be_is_cancelled():
    board, reading = JobBoard(), Going(can_cancel=True)
    starting = Going(can_cancel=False)
    before = board.cancel_newest()
    for job in (reading, starting):
        board.add(job)

    assert not before
    assert board.cancel_newest()
    assert (reading.is_cancelled, starting.is_cancelled) == (True, False)


def test_what_runs_and_cannot_be_cancelled_is_named():
    board = JobBoard()
    before = board.why_none_cancelled()
    board.add(Going(can_cancel=False))

    assert before == "no job is running"
    assert not board.cancel_newest()
    assert board.why_none_cancelled().startswith("count: it goes on by itself")
