import time

import pytest

from agent.integrations.foreign import ForeignLoop
from agent.rundir.events import RunEnded, StepDone, decode_lines
from agent.rundir.layout import RunDir
from agent.rundir.requests import read_outcome, write_request


@pytest.fixture
def run(tmp_path):
    return RunDir(tmp_path / "run")


@pytest.fixture
def loop(run):
    loop = ForeignLoop(run.path, agree_every=1, heartbeat_s=0.02)
    loop.begin(step=7)
    yield loop
    loop.end()


def step_until_asked(loop, first=8):
    step = first
    while (request := loop.step_done(step, loss=0.5)) is None:
        step += 1
        time.sleep(0.01)
    return request


def events(run, event_type):
    data = run.telemetry_file(1, "rank-00000").read_bytes()
    return [e for e in decode_lines(data) if isinstance(e, event_type)]


def test_a_save_that_was_asked_for_is_done_when_the_framework_says_so(loop, run):
    asked = write_request(run, "checkpoint-now", attempt=1)

    request = step_until_asked(loop)
    assert (request.id, request.kind) == (asked, "checkpoint-now")
    assert read_outcome(run, asked) is None
    loop.saved()

    assert read_outcome(run, asked).stage == "done"
    loop.end()
    assert events(run, RunEnded)[-1].reason == "completed"
    assert events(run, StepDone)[0].step == 8


def test_a_stop_is_done_when_saved_and_ends_the_run_as_stopped(loop, run):
    asked = write_request(run, "stop", attempt=1)

    step_until_asked(loop)
    loop.saved()
    loop.end()

    assert read_outcome(run, asked).stage == "done"
    assert events(run, RunEnded)[-1].reason == "stopped"


def test_what_is_never_saved_has_failed(loop, run):
    asked = write_request(run, "stop", attempt=1)

    step_until_asked(loop)
    loop.end()

    outcome = read_outcome(run, asked)
    assert outcome.stage == "failed"
    assert outcome.error == "training ended before a checkpoint was written"


def test_an_exception_is_the_reason_of_the_end(loop, run):
    loop.end(ZeroDivisionError("lr"))
    loop.end()

    (last,) = events(run, RunEnded)
    assert (last.reason, last.error) == ("error", "ZeroDivisionError: lr")


def test_one_request_is_carried_out_at_a_time(loop, run):
    first = write_request(run, "checkpoint-now", attempt=1)
    second = write_request(run, "checkpoint-now", attempt=1)

    assert step_until_asked(loop).id == first
    assert [loop.step_done(step) for step in range(100, 110)] == [None] * 10
    loop.saved()
    assert step_until_asked(loop, first=200).id == second


def test_a_save_that_nobody_asked_for_tells_nothing(loop, run):
    loop.saved()

    assert loop.step_done(8) is None
