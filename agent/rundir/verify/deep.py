"""Start the part of a verification that needs torch, in a process of its own.

The process may die of a mapped file that shrinks, of memory, or because torch
is not installed: each is a finding here, never an exception.
"""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import msgspec

from agent.rundir.verify.outcome import Outcome
from agent.rundir.verify.text import visible
from agent.rundir.verify.verdict import Finding, State
from agent.rundir.verify.watch import Watch

_MAX_ANSWER_BYTES = 16 << 20
_SHOWN_ERROR_BYTES = 2000
_POLL_S = 0.05
_PACKAGES = Path(__file__).resolve().parents[3]
"""The directory that `agent` and `trainer` lie in."""


class DeepAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The one line that `python -m trainer verify-deep PATH` prints."""

    schema: int
    state: State
    findings: tuple[Finding, ...] = ()


DEEP_SCHEMA = 1


def look_deep(path: Path, watch: Watch) -> Outcome:
    """Return what a process with torch finds in a checkpoint.

    Raises:
        VerifyCancelled: the caller asked to stop; the process was ended.
    """
    command = [sys.executable, "-m", "trainer", "verify-deep", str(path.absolute())]
    with tempfile.TemporaryFile() as answer, tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(  # noqa: S603 - our own module, no shell
            command,
            # Where our packages are: `-m` looks there first, and the directory
            # that the operator happens to be in may hold another `trainer`.
            cwd=_PACKAGES,
            stdin=subprocess.DEVNULL,
            stdout=answer,
            stderr=errors,
            env={**os.environ, "OPSDASH_AGENT": "off", "OMP_NUM_THREADS": "2"},
        )
        try:
            _wait(process, watch)
        finally:
            process.kill()
            process.wait()
        answer.seek(0)
        errors.seek(max(0, errors.seek(0, os.SEEK_END) - _SHOWN_ERROR_BYTES))
        return _read(
            path, process.returncode, answer.read(_MAX_ANSWER_BYTES), errors.read()
        )


def _wait(process: subprocess.Popen[bytes], watch: Watch) -> None:
    while True:
        watch.check()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_POLL_S)
            return


def _read(path: Path, returncode: int, answer: bytes, errors: bytes) -> Outcome:
    outcome = Outcome()
    try:
        found = msgspec.json.decode(answer, type=DeepAnswer)
    except (msgspec.DecodeError, UnicodeDecodeError):
        why = _why_no_answer(returncode, errors)
        outcome.add(State.UNREADABLE, path.name, why)
        return outcome
    outcome.state = found.state
    outcome.findings += found.findings
    return outcome


def _why_no_answer(returncode: int, errors: bytes) -> str:
    if returncode < 0:
        name = signal.Signals(-returncode).name
        return f"the deep level gave no answer: its process was ended by {name}"
    lines = errors.decode("utf-8", "replace").strip().splitlines()
    last = f": {visible(lines[-1])}" if lines else ""
    return f"the deep level gave no answer; it needs `opsdash[train]`{last}"
