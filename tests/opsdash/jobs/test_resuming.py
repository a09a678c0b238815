"""The line of a trainer that was started from the screen."""

import threading
from pathlib import Path

import pytest

from opsdash.jobs.resuming import Resuming
from opsdash.operations.start import Stage


class Start:
    """A start whose stages are told one after the other."""

    log_path = Path("resume.log")
    attempt = 2

    def __init__(self, *stages):
        self.stages = iter(stages)

    def poll(self):
        stage = next(self.stages)
        if isinstance(stage, OSError):
            raise stage
        return stage

    def last_output(self, num_lines):
        return ["no module named model"][:num_lines]


def states_of(num, *stages):
    resuming = Resuming(Start(*stages), "resume run")
    states = [resuming.state() for _ in range(num)]
    resuming.leave()
    return states


def test_a_start_is_followed_until_it_is_alive():
    states = states_of(3, Stage.STARTING, Stage.BEGUN, Stage.ALIVE)

    assert [state.outcome for state in states] == ["", "", "ok"]
    assert states[-1].detail == "attempt 2 is alive"


def test_a_start_goes_on_by_itself_and_offers_no_key():
    assert not states_of(1, Stage.BEGUN)[0].can_cancel


def test_what_a_trainer_said_last_is_told():
    assert states_of(1, Stage.ENDED)[0].detail == "no module named model"


def test_a_look_that_fails_is_told_and_tried_again():
    states = states_of(2, OSError(5, "Input/output error"), Stage.ALIVE)

    assert "Input/output error" in states[0].detail
    assert states[0].is_running
    assert states[1].outcome == "ok"


@pytest.mark.usefixtures("impatient")
def test_a_directory_that_does_not_answer_holds_up_nobody(monkeypatch):
    go_on = threading.Event()
    monkeypatch.setattr(Start, "poll", lambda _: go_on.wait(30))

    states = states_of(50)
    go_on.set()

    assert {state.detail for state in states} == {"starting; output in resume.log"}


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr("opsdash.operations.beside.PATIENCE_S", 0.01)
