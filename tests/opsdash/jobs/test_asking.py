"""A request's line, from its file to what every rank said of it."""

import threading

import pytest

from opsdash.jobs.asking import Asking
from opsdash.operations.plan import Plan
from opsdash.operations.requests import Asked, Step
from opsdash.projections.requests import RequestRow
from tests.runs import RunWriter

PLAN = Plan("pause", "pause the run", (), (), (), ())
ROW = RequestRow("r", "pause", 1, 0, None, (), is_done=False, error=None)


def asking_of(tmp_path, rows):
    """A request that its file says is done, and what events say at each look."""
    run = RunWriter(tmp_path / "run").run
    asked = Asked(run, "r", PLAN, step=Step.DONE)
    said = iter(rows)
    return Asking(asked, lambda: next(said), num_processes=2)


def test_the_outcome_waits_for_what_every_rank_said(tmp_path):
    begun = ROW._replace(acked=("rank-00000",), is_done=True)
    all_in = begun._replace(acked=("rank-00000", "rank-00001"))

    asking = asking_of(tmp_path, [None, ROW, begun, all_in])
    states = [asking.state() for _ in range(4)]

    assert [state.outcome for state in states] == ["", "", "", "ok"]
    assert states[-1].detail == "acknowledged by 2 of 2 ranks"


def test_a_rank_that_says_nothing_does_not_hide_the_outcome(tmp_path):
    silent = ROW._replace(acked=("rank-00000",), is_done=True)

    asking = asking_of(tmp_path, [silent] * 20)
    outcomes = [asking.state().outcome for _ in range(20)]

    assert outcomes[0] == ""
    assert outcomes[-1] == "ok"


def test_a_request_that_nobody_acknowledges_is_over_when_it_is_told(tmp_path):
    asking = asking_of(tmp_path, [ROW._replace(is_done=True)])

    assert asking.state().outcome == "ok"


@pytest.fixture
def open_request(tmp_path):
    """A request that nobody has taken yet."""
    asked = Asked(RunWriter(tmp_path / "run").run, "r", PLAN)
    asking = Asking(asked, lambda: None, num_processes=2)
    yield asking
    asking.leave()


def test_a_directory_that_does_not_answer_holds_up_nobody(open_request, monkeypatch):
    go_on = threading.Event()
    monkeypatch.setattr("opsdash.operations.beside.PATIENCE_S", 0.01)
    monkeypatch.setattr(Asked, "look", lambda *_: go_on.wait(30))

    states = [open_request.state() for _ in range(50)]
    go_on.set()

    assert {state.detail for state in states} == {"asked, waits for a safe point"}


def test_a_look_that_fails_is_told_and_tried_again(open_request, monkeypatch):
    looks = iter([OSError(5, "Input/output error"), Step.RUNNING])

    def look(asked, _):
        found = next(looks)
        if isinstance(found, OSError):
            raise found
        asked.step = found
        return found

    monkeypatch.setattr(Asked, "look", look)
    states = [open_request.state() for _ in range(2)]

    assert "Input/output error" in states[0].detail
    assert states[0].is_running
    assert states[1].detail == "taken"
