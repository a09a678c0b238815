"""What a process does once another run lies in its run directory."""

import threading
import time

import pytest

from agent.probes.home import Home
from agent.probes.pulse import Duty
from agent.rundir.errors import LockedError
from agent.rundir.events import EventsDropped, StepDone, decode_lines
from agent.rundir.layout import RunDir
from agent.rundir.requests import read_outcome, write_request
from agent.session import Agent
from agent.start import begin_run


def begin(folder):
    """Return a run that another process of this user might have begun."""
    start = begin_run(folder, kind="ddp")
    start.record()
    telemetry = start.run.telemetry_file(1, "rank-00000")
    telemetry.parent.mkdir(parents=True)
    telemetry.touch()
    return start


def lead(path, target):
    """Let a path lead to another directory from now on, in one step."""
    new = path.with_name("new")
    new.symlink_to(target)
    new.rename(path)


def contents(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def events(run, event_type):
    data = run.telemetry_file(1, "rank-00000").read_bytes()
    return [event for event in decode_lines(data) if isinstance(event, event_type)]


def test_another_run_that_was_moved_to_the_path_is_left_alone(tmp_path):
    other, mine = begin(tmp_path / "other"), RunDir(tmp_path / "mine")
    run, is_led = RunDir(tmp_path / "run"), threading.Event()
    mine.path.mkdir()
    lead(run.path, mine.path)

    def lead_away():
        if not is_led.is_set():
            lead(run.path, other.run.path)
            is_led.set()

    with Agent.attach(run.path, heartbeat_s=0.02) as agent:
        agent.accept("stop")
        # By its own thread, so that it does nothing else meanwhile.
        agent._background._pulse.add(Duty("lead away", lead_away))
        is_led.wait()
        asked = write_request(run, "stop", attempt=1)
        left = contents(run.path)
        while not events(mine, EventsDropped):
            time.sleep(0.01)
        agent.step_done(1)

        assert agent.at_step(1) is None

    assert read_outcome(run, asked) is None
    assert contents(run.path) == left
    assert [event.step for event in events(mine, StepDone)] == [1]
    [dropped] = events(mine, EventsDropped)
    assert f"another run lies in `{run.path}` by now" in dropped.reason


def test_what_comes_back_to_its_path_is_at_home_again(tmp_path):
    begin(tmp_path / "mine")
    begin(tmp_path / "other")
    run = RunDir(tmp_path / "run")
    lead(run.path, tmp_path / "mine")
    home, done = Home(run), []
    work = home.only_here(lambda: done.append(home.is_ours()))

    lead(run.path, tmp_path / "other")
    work()
    with pytest.raises(LockedError):
        home.look()
    lead(run.path, tmp_path / "mine")
    work()
    home.look()

    assert done == [True]


def test_a_run_that_is_only_removed_is_nobody_elses(tmp_path):
    mine = begin(tmp_path / "run")
    home = Home(mine.run)

    mine.run.identity.unlink()
    assert home.is_ours()
    mine.run.identity.write_text("{")
    assert home.is_ours()


def test_whose_run_it_is_may_become_known_later(tmp_path):
    run = RunDir(tmp_path / "run")
    home = Home(run)
    begin(tmp_path / "mine")
    begin(tmp_path / "other")

    lead(run.path, tmp_path / "mine")
    assert home.is_ours()
    lead(run.path, tmp_path / "other")

    assert not home.is_ours()
