"""An operator does everything to a live run from one screen, under a real terminal."""

import re
import sys

import pytest

from agent.rundir.checkpoints import list_checkpoints
from agent.rundir.events import CheckpointLoaded, RunEnded
from agent.rundir.operations import read_operations
from agent.rundir.requests import list_requests, read_accepted
from tests.processes import ROOT, events
from tests.pty_terminal import PtyTerminal

pytestmark = [pytest.mark.dist, pytest.mark.slow]

PATIENCE_S = 120


class Desk:
    """The dashboard of a live run; every request goes through its plan."""

    def __init__(self, terminal, run):
        self.terminal, self.run = terminal, run
        self.kinds = []

    def wait_for(self, text):
        self.terminal.wait_for(text, PATIENCE_S)

    def plan(self, key, title):
        """Open a plan; it tells the command that does the same."""
        self.terminal.send(key)
        self.wait_for(f"│ {title}")
        self.wait_for("enter confirms")

    def close(self):
        self.terminal.send("\x1b")
        self.terminal.wait_until(
            lambda: "│ loses" not in self.terminal.text, "the plan gone"
        )

    def do(self, key, title, kind, *, name="", outcome="acknowledged by 2 of 2 ranks"):
        """Confirm a plan, with a name where it asks for one, and see it done."""
        self.plan(key, title)
        self.terminal.send(f"{name}\r")
        self.wait_for(f"ok {title} {outcome}".rstrip())
        self.kinds.append(kind)

    def num_asked(self):
        return len(list_requests(self.run))


@pytest.fixture
def running(launch, tmp_path):
    flags = ("--steps", "1000000", "--save-every", "0", "--keep", "9")
    found = launch(tmp_path / "run-1", 2, *flags)
    found.wait_for_step(2)
    return found


@pytest.fixture
def desk(running):
    attach = [sys.executable, "-m", "opsdash", "attach", running.run.path]
    with PtyTerminal(attach, columns=120, rows=36, cwd=ROOT) as terminal:
        terminal.wait_until(
            lambda: "steps at risk" in terminal.text and read_accepted(running.run),
            "a run that takes requests",
            PATIENCE_S,
        )
        yield Desk(terminal, running.run)


def test_everything_is_done_to_a_live_run_from_one_screen(running, desk):
    run, terminal = running.run, desk.terminal

    desk.plan("s", "save a checkpoint now")
    terminal.send("c")
    terminal.wait_until(lambda: terminal.clipboard is not None, "the clipboard")
    desk.close()
    copied, num_asked = terminal.clipboard, desk.num_asked()

    desk.do("s", "save a checkpoint now", "checkpoint-now")
    name = list_checkpoints(run)[0].name
    terminal.send("3")
    desk.wait_for(f" {name}")
    desk.do("P", f"pin {name}", "pin", outcome="")
    terminal.send("v")
    desk.wait_for(f"ok verify {name} sound")
    desk.kinds.append("verify")

    desk.do(" ", "pause the run", "pause")
    desk.wait_for("paused at step")
    desk.do(" ", "let the run go on", "continue")
    desk.do("K", "write the Python stacks of every process", "stacks", outcome="")
    desk.do("f", "profile the next 5 steps", "profile")

    desk.plan("r", f"go back to {name} while it runs")
    lost = re.search(r"loses +(\d+) steps after (\S+),.* of work", terminal.text)
    terminal.send("another\r")
    desk.wait_for("that is not run-1")
    desk.close()
    desk.do("r", f"go back to {name} while it runs", "resume", name="run-1")

    desk.plan("S", "stop the run")
    terminal.send("run-1\r")
    desk.kinds.append("stop")
    desk.wait_for("finished stopped as asked")
    desk.wait_for("ok stop the run")
    terminal.send("q")
    assert terminal.exit_code() == 0
    assert running.wait() == 143, running.text()

    assert copied == f"opsdash request {run.path} checkpoint-now"
    assert num_asked == 0
    assert lost[2] == name
    assert int(lost[1]) > 0
    for rank in range(2):
        told = [event for _, event in events(run.path, rank)]
        loaded = [e.checkpoint for e in told if isinstance(e, CheckpointLoaded)]
        assert loaded == [name]
        assert isinstance(told[-1], RunEnded)
    assert done_in(run) == desk.kinds


def done_in(run):
    """The kinds in the one operations file; what acts was written down before."""
    assert len(list(run.operations.iterdir())) == 1
    entries = read_operations(run)
    done = [entry for entry in entries if entry.stage == "done"]
    commands = {e.id: e.command for e in entries if e.stage == "started"}
    assert [e for e in entries if e.stage not in ("started", "done")] == []
    assert all("@" in e.by for e in entries)
    assert all(commands[e.id] for e in done if e.kind != "verify")
    return [entry.kind for entry in done]
