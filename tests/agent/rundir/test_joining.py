import threading

import pytest

from agent.rundir.errors import LockedError
from agent.rundir.joining import wait_for_attempt
from agent.rundir.layout import RunDir
from agent.rundir.lock import release_lock, take_lock
from agent.start import begin_run


def test_the_attempt_of_the_same_launch_is_found(tmp_path):
    start = begin_run(tmp_path, kind="ddp", launch_id="here/1")
    start.record()

    assert wait_for_attempt(RunDir(tmp_path), "here/1", timeout_s=5) == 1
    start.release()


def test_another_launch_is_not_joined(tmp_path):
    start = begin_run(tmp_path, kind="ddp", launch_id="here/1")
    start.record()

    with pytest.raises(LockedError, match="rank 0 of this start did not begin"):
        wait_for_attempt(RunDir(tmp_path), "here/2", timeout_s=0.1)
    start.release()


def test_a_number_that_may_still_be_given_up_is_not_joined(tmp_path):
    run = RunDir(tmp_path)
    holder = take_lock(run.lock, 1, launch_id="here/1")
    found = []
    waiting = threading.Thread(
        target=lambda: found.append(wait_for_attempt(run, "here/1", timeout_s=30))
    )
    waiting.start()

    waiting.join(0.2)
    assert found == []

    release_lock(run.lock, holder)
    start = begin_run(tmp_path, kind="ddp", launch_id="here/1")
    start.record()
    waiting.join()

    assert found == [start.attempt]
    start.release()
