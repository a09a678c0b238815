"""`opsdash demo`: train a small model here, and watch it."""

import argparse
import contextlib
import importlib.util
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from agent.rundir.errors import RunDirError
from agent.rundir.layout import RunDir
from opsdash.commands.attach import open_screen
from opsdash.commands.console import has_terminal, say
from opsdash.commands.demo_faults import Fault, check_fault
from opsdash.commands.story import tell
from opsdash.commands.watching import attach
from opsdash.operations.standing import running

_POLL_S = 0.1
_STOP_S = 60.0
_SIZES = {
    "ddp": (
        *("--nproc", "2", "--steps", "300", "--save-every", "25"),
        *("--eval-every", "50", "--norms-every", "10"),
    ),
    "fl": ("--clients", "3", "--rounds", "200", "--chunk-keep-rounds", "200"),
}
"""So that a demo shows everything and ends within a minute. Of a federation every
round stays: five would be gone before one of them was looked at and restored."""


class DemoError(RunDirError):
    """The demo could not be started."""


def main(arguments: argparse.Namespace) -> int:
    """Start a small run; show it, or tell it where there is no terminal."""
    if importlib.util.find_spec("torch") is None:
        raise DemoError(
            "the demo trains a model, and torch is not installed",
            hint="pip install 'opsdash[train]'",
        )
    if arguments.fault:
        check_fault(arguments.kind, arguments.fault)
    path = _new_run_dir(Path("runs"))
    command = launch_command(path, arguments.kind)
    say(shlex.join(command))
    sickness: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
    fault = None
    if arguments.fault:
        fault = Fault(RunDir(path), arguments.kind, arguments.fault)
        say(fault.words)
        sickness = fault.applied()
    with _output_of(path).open("xb") as output:
        process = subprocess.Popen(  # noqa: S603 - our own module
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    if has_terminal():
        say("the trainer loads; the screen opens when it begins")
        _wait_for_run(path, process)
        with sickness:
            last = fault.undo if fault else None
            exit_code = open_screen(arguments, path, last=last)
        if process.poll() is None:
            say(f"the run goes on: opsdash attach {path}")
            say(f"to stop it: kill {process.pid}")
        elif running(RunDir(path)) is not None:  # somebody resumed it
            say(f"the run goes on: opsdash attach {path}")
            say(f"to stop it: opsdash request {path} stop")
        return exit_code
    with _ended_with_us(process), sickness:
        return _tell(path, process)


def launch_command(path: Path, kind: str) -> list[str]:
    """Return what trains a demo's model: small, and so that its fault can be seen."""
    return [sys.executable, "-m", "trainer", "launch", kind, str(path), *_SIZES[kind]]


def _tell(path: Path, process: "subprocess.Popen[bytes]") -> int:
    _wait_for_run(path, process)
    verdict = tell(attach(path))
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_STOP_S)
    return verdict.exit_code


def _wait_for_run(path: Path, process: "subprocess.Popen[bytes]") -> None:
    """Wait until there is something to attach to: torch takes its time to load."""
    while not (path / "run.json").exists():
        code = process.poll()
        if code is not None:
            output = _output_of(path)
            lines = output.read_text(errors="replace").splitlines()
            why = next((line for line in reversed(lines) if line.strip()), "")
            raise DemoError(
                f"the trainer ended with exit code {code} before it began: {why}",
                hint=f"less {output}",
            )
        time.sleep(_POLL_S)


def _new_run_dir(root: Path) -> Path:
    """Make the first `demo-<n>` that does not exist; two demos never share one."""
    try:
        root.mkdir(exist_ok=True)
        for number in range(1, sys.maxsize):
            path = root / f"demo-{number}"
            if _output_of(path).exists():
                continue
            with contextlib.suppress(FileExistsError):
                path.mkdir()
                return path
    except OSError as error:
        raise DemoError(
            f"`{root.absolute()}` cannot hold the demo's run: {error.strerror}",
            hint="cd /tmp && opsdash demo",
        ) from error
    raise AssertionError("there is always another number")


def _output_of(path: Path) -> Path:
    """Return where the launcher's output goes: beside the run, which must be empty."""
    return path.with_suffix(".log")


@contextlib.contextmanager
def _ended_with_us(process: "subprocess.Popen[bytes]") -> Iterator[None]:
    """Stop the run when this command is stopped: nobody else knows of it."""
    try:
        yield
    except BaseException:
        if process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGTERM)
            try:
                process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        raise
