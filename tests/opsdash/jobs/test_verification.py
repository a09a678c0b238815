"""The line of checkpoints and stores that are read again."""

import threading
import time
from pathlib import Path

import pytest

from agent.rundir.verify.verdict import Level
from agent.rundir.verify.watch import VerifyCancelled
from opsdash.jobs.verification import Verification
from opsdash.operations.targets import Target
from opsdash.operations.verify import JobProgress
from tests.verdicts import verdict

PATIENCE_S = 60
SIZE = 1 << 20


class Reading:
    """A reading that goes on when it is told to, and stands still in between."""

    def __init__(self, monkeypatch):
        self._may_go_on, self._stands = threading.Semaphore(0), threading.Semaphore(0)
        monkeypatch.setattr("opsdash.operations.verify.verify_target", self)

    def __call__(self, target, level, *, progress, is_cancelled):
        for done in (0, SIZE // 2, SIZE):
            if done:
                progress(done, SIZE)
            self._stand()
        return verdict(path=str(target.path), level=level, num_bytes=SIZE)

    def _stand(self):
        self._stands.release()
        assert self._may_go_on.acquire(timeout=PATIENCE_S)

    def states(self, job):
        """Yield what the line shows at each stand, then how it ended."""
        for _ in range(3 * len(job.targets)):
            assert self._stands.acquire(timeout=PATIENCE_S)
            yield job.state()
            self._may_go_on.release()
        job.job.wait(PATIENCE_S)
        yield job.state()


def targets(*names):
    return tuple(Target(Path(name), name) for name in names)


@pytest.fixture
def reading(monkeypatch):
    return Reading(monkeypatch)


def test_a_deep_look_is_not_done_when_its_bytes_are_read(reading):
    job = Verification(targets("step-00000010"), level=Level.DEEP)

    *running, ended = reading.states(job)

    assert [(state.done_frac, state.detail) for state in running] == [
        (0.0, ""),
        (0.25, "512 KiB of 1 MiB"),
        (0.5, "1 MiB read, now its values are looked at"),
    ]
    assert ended.outcome == "ok"


def test_one_of_several_that_is_done_counts_once(reading):
    job = Verification(targets("step-00000010", "step-00000020"))

    *running, ended = reading.states(job)

    assert [state.done_frac for state in running] == [0.0, 0.25, 0.5, 0.5, 0.75, 1.0]
    assert ended.detail.startswith("sound: 2 MiB read")


def test_what_a_deep_look_started_is_ended_before_the_dashboard_goes(monkeypatch):
    looking, ended = threading.Event(), []

    def look(target, level, *, progress, is_cancelled):
        looking.set()
        try:
            while not is_cancelled():
                time.sleep(0.01)
            raise VerifyCancelled
        finally:
            ended.append(target.name)

    monkeypatch.setattr("opsdash.operations.verify.verify_target", look)
    job = Verification(targets("step-00000010"), level=Level.DEEP)
    assert looking.wait(PATIENCE_S)

    job.leave()

    assert job.is_done
    assert ended == ["step-00000010"]


def test_a_store_that_grows_is_never_read_more_than_whole():
    assert JobProgress(done_bytes=3 * SIZE, total_bytes=SIZE).read_frac == 1.0
