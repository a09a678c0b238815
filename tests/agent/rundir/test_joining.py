import os
import threading
import time

import msgspec
import pytest

from agent.rundir import joining
from agent.rundir.errors import LockedError
from agent.rundir.joining import wait_for_attempt
from agent.rundir.layout import RunDir
from agent.rundir.lock import Holder, release_lock, take_lock
from agent.rundir.process import this_process
from agent.start import begin_run


def test_the_attempt_of_the_same_launch_is_found(tmp_path):
    start = begin_run(tmp_path, kind="ddp", launch_id="here/1")
    start.record()

    assert wait_for_attempt(RunDir(tmp_path), "here/1", rank=1, timeout_s=5) == 1
    start.release()


def test_another_launch_is_not_joined(tmp_path):
    start = begin_run(tmp_path, kind="ddp", launch_id="here/1")
    start.record()

    with pytest.raises(LockedError, match="rank 0 of this start did not begin"):
        wait_for_attempt(RunDir(tmp_path), "here/2", rank=1, timeout_s=0.1)
    start.release()


def test_a_number_that_may_still_be_given_up_is_not_joined(tmp_path):
    run = RunDir(tmp_path)
    holder = take_lock(run.lock, 1, launch_id="here/1")
    found = []
    waiting = threading.Thread(
        target=lambda: found.append(
            wait_for_attempt(run, "here/1", rank=1, timeout_s=30)
        )
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


def test_a_rank_that_comes_again_joins_the_next_attempt(tmp_path):
    run = RunDir(tmp_path)
    start = begin_run(tmp_path, kind="ddp", launch_id="here/1")
    start.record()
    first = [wait_for_attempt(run, "here/1", rank=rank, timeout_s=5) for rank in (1, 2)]

    with pytest.raises(LockedError):
        wait_for_attempt(run, "here/1", rank=1, timeout_s=0.1)
    start.release()
    start = begin_run(tmp_path, kind="ddp", launch_id="here/1")
    start.record()

    assert first == [1, 1]
    assert wait_for_attempt(run, "here/1", rank=1, timeout_s=5) == 2
    start.release()


def test_a_client_may_come_again_to_the_same_attempt(tmp_path):
    start = begin_run(tmp_path, kind="federated", launch_id="here/1")
    start.record()

    found = [
        wait_for_attempt(RunDir(tmp_path), "here/1", rank=-1, timeout_s=5)
        for _ in range(2)
    ]

    assert found == [1, 1]
    start.release()


class Far:
    """A run whose rank 0 is on a host that cannot be seen from here."""

    def __init__(self, folder):
        self.run = RunDir(folder)
        self.run.attempts.mkdir()
        self.begin(1)

    def begin(self, attempt):
        process = msgspec.structs.replace(this_process(), host="elsewhere")
        holder = Holder(
            process=process,
            attempt=attempt,
            taken_ns=time.time_ns(),
            launch_id="far/1",
        )
        self.run.attempt_file(attempt).write_text("{}")
        self.telemetry = self.run.telemetry_file(attempt, "rank-00000")
        self.telemetry.parent.mkdir(parents=True)
        self.telemetry.write_text("began\n")
        self.run.lock.write_bytes(msgspec.json.encode(holder))

    def join(self):
        """Return a thread that waits for the attempt, and what it finds."""
        found = []
        thread = threading.Thread(
            target=lambda: found.append(
                wait_for_attempt(self.run, "far/1", rank=1, timeout_s=60)
            )
        )
        thread.start()
        return thread, found


@pytest.fixture
def far(tmp_path):
    return Far(tmp_path)


def test_the_lock_of_the_start_before_on_another_host_is_not_joined(far):
    thread, found = far.join()

    thread.join(0.3)
    assert found == []
    far.begin(2)
    while thread.is_alive():
        with far.telemetry.open("a") as file:
            file.write("a beat\n")
        thread.join(0.05)

    assert found == [2]


def test_who_gives_no_sign_of_life_is_joined_after_a_while(far, monkeypatch):
    monkeypatch.setattr(joining, "_LIFE_PATIENCE_S", 0.1)

    thread, found = far.join()
    thread.join()

    assert found == [1]


def test_a_fifo_in_place_of_telemetry_holds_nobody(far, monkeypatch):
    monkeypatch.setattr(joining, "_LIFE_PATIENCE_S", 0.1)
    far.telemetry.unlink()
    os.mkfifo(far.telemetry)

    thread, found = far.join()
    thread.join()

    assert found == [1]
