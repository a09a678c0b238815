"""Federations of processes: start, hurt, wait, and leave nothing behind."""

import asyncio
import contextlib
import os
import signal
import socket
import sys
from pathlib import Path

from agent.rundir.events import decode_lines
from agent.rundir.layout import RunDir
from agent.rundir.process import start_ticks

ENVIRONMENT = {
    **{k: v for k, v in os.environ.items() if not k.startswith("OPSDASH_")},
    "OMP_NUM_THREADS": "1",
    "PYTHONUNBUFFERED": "1",
}


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


class Command:
    """A `python -m trainer …` process with its output in a file."""

    def __init__(self, log_path):
        self.log_path = log_path

    async def start(self, *arguments):
        with self.log_path.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "trainer", *map(str, arguments)),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=ENVIRONMENT,
                start_new_session=True,
            )
        return self

    @property
    def is_up(self):
        return self.process.returncode is None

    @property
    def output(self):
        return self.log_path.read_text()

    def send(self, number):
        if self.is_up:
            self.process.send_signal(number)

    async def wait(self):
        return await self.process.wait()

    async def end(self):
        """Kill it if it still runs; stopped processes can be killed too."""
        self.send(signal.SIGKILL)
        await self.process.wait()


async def run(log_path, *arguments):
    """Run a command to its end; return the exit code and the output."""
    command = await Command(log_path).start(*arguments)
    try:
        code = await command.wait()
    finally:
        await command.end()
    return code, command.output


def told(run_dir, node, kind):
    """Return a node's events of a kind over all attempts, oldest first."""
    paths = sorted(RunDir(run_dir).telemetry.glob(f"*/{node}*.jsonl"))
    found = [event for path in paths for event in decode_lines(path.read_bytes())]
    return [event for event in found if isinstance(event, kind)]


def command_lines(run_dir):
    """Return the words of each living process that names this run, by pid."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                words = (entry / "cmdline").read_text(errors="replace").split("\0")
                if str(run_dir) in words and start_ticks(int(entry.name)):
                    found[int(entry.name)] = words
    return found


def pid_of(run_dir, word):
    """Return the one process of a run with this word on its command line."""
    (pid,) = [pid for pid, words in command_lines(run_dir).items() if word in words]
    return pid


async def until(condition, *, what):
    """Wait for something that must happen; the test's own time-out is the limit."""
    for _ in range(100_000):
        if condition():
            return
        await asyncio.sleep(0.02)
    raise AssertionError(f"waited in vain for {what}")
