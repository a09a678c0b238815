"""Requests to a live run are carried out by all ranks at one step."""

import pytest

from agent.rundir.checkpoints import Stage, list_checkpoints
from agent.rundir.events import (
    CheckpointLoaded,
    CheckpointVerified,
    OptimizerReset,
    PhaseChanged,
    RequestAcked,
    RequestDone,
    StepDone,
)
from agent.rundir.requests import write_request
from tests.processes import events

pytestmark = [pytest.mark.dist, pytest.mark.slow]


@pytest.fixture
def running(launch, tmp_path):
    found = launch(
        tmp_path / "run", 2, "--steps", "1000000", "--save-every", "0", "--keep", "9"
    )
    found.wait_for_step(2)
    return found


def ask(running, kind, **arguments):
    """Ask for something, and return its outcome."""
    request = write_request(running.run, kind, arguments)
    return running.wait_for(
        lambda e: isinstance(e, RequestDone) and e.request == request
    )


def saved_steps(run):
    found = [e for e in list_checkpoints(run) if e.stage is Stage.VERIFIED]
    return [e.number for e in found]


def test_a_whole_life_of_requests(running):
    run = running.run

    assert ask(running, "checkpoint-now").error is None
    [first] = saved_steps(run)
    name = f"step-{first:08d}"
    assert list_checkpoints(run)[0].manifest.reason == "checkpoint-now"

    assert ask(running, "pin", checkpoint=name).error is None
    assert list_checkpoints(run)[0].is_pinned
    assert ask(running, "unpin", checkpoint=name).error is None
    assert not list_checkpoints(run)[0].is_pinned

    assert ask(running, "verify", checkpoint=name).error is None
    verified = [e for _, e in events(run.path) if isinstance(e, CheckpointVerified)]
    assert [(e.checkpoint, e.state) for e in verified] == [(name, "sound")] * 2
    assert "@" in verified[1].by

    profiled = ask(running, "profile", steps=2)
    assert profiled.error is None
    running.wait_for_step(profiled.step + 4)
    assert sorted(p.suffix for p in (run.path / "profiles").iterdir()) == [
        ".json",
        ".txt",
    ]

    missing = ask(running, "pin", checkpoint="step-00999999")
    assert "has no checkpoint `step-00999999`" in missing.error

    assert ask(running, "pause").error is None
    running.wait_for(lambda e: isinstance(e, PhaseChanged) and e.phase == "paused")
    assert ask(running, "checkpoint-now").error is None
    paused_at = saved_steps(run)[0]
    assert ask(running, "continue").error is None
    running.wait_for_step(paused_at + 3)

    assert ask(running, "resume", checkpoint=name).error is None
    assert saved_steps(run) == [first]
    for rank in range(2):
        told = [e for _, e in events(run.path, rank)]
        [loaded] = [e for e in told if isinstance(e, CheckpointLoaded)]
        assert loaded.resumed_step == first
        assert [e.reason for e in told if isinstance(e, OptimizerReset)] == [
            f"loaded `{name}`"
        ]
    assert ask(running, "stop").error is None
    assert running.wait() == 143, running.text()
    steps = [e.step for _, e in events(run.path) if isinstance(e, StepDone)]
    back = steps.index(first + 1, steps.index(first + 1) + 1)
    assert steps[back - 1] >= paused_at
    acked = [
        [e.request for _, e in events(run.path, rank) if isinstance(e, RequestAcked)]
        for rank in range(2)
    ]
    assert len(acked[0]) == 11
    assert acked[0] == acked[1]


def test_after_a_rollback_training_repeats_itself_exactly(running):
    run = running.run
    ask(running, "checkpoint-now")
    [first] = saved_steps(run)
    running.wait_for_step(first + 10)

    ask(running, "resume")
    ask(running, "stop")

    assert running.wait() == 143, running.text()
    losses = {}
    for _, event in events(run.path):
        if isinstance(event, StepDone):
            losses.setdefault(event.step, []).append(event.loss)
    twice = [found for step, found in losses.items() if len(found) == 2]
    assert twice
    assert all(one == other for one, other in twice)
