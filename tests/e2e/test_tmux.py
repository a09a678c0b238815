"""Three minutes in a real tmux on a live run: what an operator's evening looks like.

tmux is a terminal of its own: it rewrites colours and keys, is detached from
and attached again, changes its size, and is killed with everything in it.
"""

import re
import shlex
import shutil
import subprocess
import sys
import time
import uuid

import psutil
import pytest

from agent.rundir.operations import read_operations
from agent.rundir.requests import read_accepted
from tests.processes import ROOT

pytestmark = [
    pytest.mark.dist,
    pytest.mark.soak,
    pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed"),
]

SESSION_S = 180
PATIENCE_S = 60
STATES = ("healthy", "degraded", "finished")
TOUR = (
    ("1", "tokens/s"),
    ("2", "cost now"),
    ("3", "resumable"),
    ("4", "gradient norm"),
    ("5", "its state is in checkpoints"),
    ("6", "it has steps and no rounds"),
    ("7", "what"),
    ("?", "in events"),
    ("Escape", "what"),
    ("C-p", "search for an action"),
    ("Escape", "what"),
    ("/", "literally"),
)
"""A key, and what stands on the screen then; `literally` is typed for."""


class Tmux:
    """A tmux server of its own with one window."""

    def __init__(self, command, size=(120, 36)):
        self._socket = f"opsdash-{uuid.uuid4().hex[:8]}"
        columns, rows = map(str, size)
        self("new-session", "-d", "-x", columns, "-y", rows, shlex.join(command))
        self("set-option", "-g", "status", "off")
        self("set-option", "-g", "window-size", "manual")
        self.pid = int(self("list-panes", "-F", "#{pane_pid}"))

    def __call__(self, *arguments):
        done = subprocess.run(
            ["tmux", "-L", self._socket, "-f", "/dev/null", *arguments],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def keys(self, *keys):
        self("send-keys", *keys)

    def text(self):
        return self("capture-pane", "-p")

    def see(self, text):
        """Return the screen once it shows a text."""
        deadline = time.monotonic() + PATIENCE_S
        while text not in (shown := self.text()):
            assert time.monotonic() < deadline, f"no `{text}`:\n{shown}"
            time.sleep(0.05)
        return shown

    def resize(self, columns, rows):
        self("resize-window", "-x", str(columns), "-y", str(rows))

    def close(self):
        subprocess.run(["tmux", "-L", self._socket, "kill-server"], capture_output=True)


@pytest.fixture
def running(launch, tmp_path):
    flags = ("--steps", "1000000", "--save-every", "500", "--keep", "5")
    found = launch(tmp_path / "run-1", 2, *flags)
    found.wait_for_step(2)
    return found


@pytest.fixture
def tmux(running):
    attach = [sys.executable, "-m", "opsdash", "attach", str(running.run.path)]
    found = Tmux(["env", f"PYTHONPATH={ROOT}", "OMP_NUM_THREADS=1", *attach])
    yield found
    found.close()


def step_of(screen):
    """The step that the verdict tells; every screen has one, and the keys below."""
    lines = screen.rstrip("\n").split("\n")
    assert lines[0].split()[1] in STATES, screen
    assert "q Quit" in lines[-1], screen
    verdict = " ".join(line.strip() for line in lines[:5])
    told = re.findall(r"\bstep (\d[\d,]*)", verdict)
    assert told, screen
    return max(int(number.replace(",", "")) for number in told)


def tour(tmux):
    """Go through every pane, the help and the palette; return the step told last."""
    for key, text in TOUR:
        tmux.keys(key)
        if text == "literally":
            tmux.keys("step_done (")
        screen = tmux.see(text)
    # One after the other: an escape with a letter behind it is another key.
    tmux.keys("C-u")
    tmux.see("step_done")
    tmux.keys("Escape")
    tmux.see("w Worse only")
    tmux.keys("1")
    screen = tmux.see("tokens/s")
    return step_of(screen)


def done_in(run):
    return [e.kind for e in read_operations(run) if e.stage == "done"]


def wait_for_done(run, kind, num):
    deadline = time.monotonic() + PATIENCE_S
    while done_in(run).count(kind) < num:
        assert time.monotonic() < deadline, (kind, num)
        time.sleep(0.05)


@pytest.mark.timeout(900)
def test_three_minutes_in_tmux(running, tmux):
    tmux.see("at risk")
    while read_accepted(running.run) is None:
        time.sleep(0.05)
    dashboard = psutil.Process(tmux.pid)
    end = time.monotonic() + SESSION_S
    steps, sizes = [], [(80, 24), (200, 50), (120, 36)]
    first_rss = None

    while time.monotonic() < end:
        steps.append(tour(tmux))
        first_rss = first_rss or dashboard.memory_info().rss
        size = sizes[len(steps) % len(sizes)]
        tmux.resize(*size)
        tmux.keys("s")
        tmux.see("enter confirms")
        tmux.keys("Enter")
        wait_for_done(running.run, "checkpoint-now", len(steps))
        tmux.see("ok save a checkpoint now acknow")
        tmux.keys("3")
        tmux.see("resumable")
        # The cursor stays on a checkpoint, also when retention has removed it.
        tmux.keys("g", "v")
        wait_for_done(running.run, "verify", len(steps))
    grown = dashboard.memory_info().rss - first_rss
    tmux.keys("S")
    tmux.see("to confirm:")
    tmux.keys("run-1", "Enter")
    tmux.see("stopped as asked")
    tmux.close()

    assert steps == sorted(set(steps))
    assert grown < 64 << 20
    assert running.wait() == 143, running.text()
    assert psutil.wait_procs([dashboard], timeout=PATIENCE_S)[1] == []
    assert done_in(running.run)[-1] == "stop"
