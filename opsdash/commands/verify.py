"""`opsdash verify`: read every byte again and say what it is worth. A pure read."""

import argparse
import sys
import time
from collections.abc import Sequence

import msgspec

from agent.rundir.verify.verdict import (
    Level,
    State,
    Verdict,
    worst_exit_code,
)
from opsdash import units
from opsdash.commands.console import say, write
from opsdash.operations.targets import (
    Target,
    describe_finding,
    find_targets,
    verify_target,
)
from opsdash.reports.report import REPORT_SCHEMA, fields, to_json

_MAX_FINDINGS = 5
_TELL_S = 0.2
_MAX_NAME = 50


class VerifyReport(msgspec.Struct, frozen=True, kw_only=True):
    """All verdicts and the exit code that they make."""

    schema: int = REPORT_SCHEMA
    report: str = "verify"
    time_ns: int
    exit_code: int
    verdicts: tuple[Verdict, ...]


def main(arguments: argparse.Namespace) -> int:
    """Verify each path; end with the worst verdict's exit code."""
    targets = [target for path in arguments.paths for target in find_targets(path)]
    return verify_all(targets, Level(arguments.level), is_json=arguments.json)


def verify_all(targets: Sequence[Target], level: Level, *, is_json: bool) -> int:
    """Print a verdict for each; return the worst one's exit code."""
    verdicts = []
    for target in targets:
        progress = _Progress(target, level)
        verdict = verify_target(target, level, progress=progress)
        progress.clear()
        verdicts.append(verdict)
        if not is_json:
            say(*_render(target, verdict))
    exit_code = worst_exit_code(verdicts)
    if is_json:
        report = VerifyReport(
            time_ns=time.time_ns(), exit_code=exit_code, verdicts=tuple(verdicts)
        )
        write(to_json(report) + "\n")
    elif len(targets) > 1:
        say("", _summary(verdicts))
    return exit_code


def _render(target: Target, verdict: Verdict) -> list[str]:
    state = str(verdict.state).replace("_", " ")
    read = units.byte_size(verdict.num_bytes)
    took = units.duration(verdict.elapsed_ns)
    lines = [f"{state:<10}{target.name}  {read} in {took} ({verdict.level})"]
    if len(state) >= 10:
        lines = [f"{state}  {target.name}  {read} in {took} ({verdict.level})"]
    for finding in verdict.findings[:_MAX_FINDINGS]:
        lines += fields([("", describe_finding(finding))])
    more = len(verdict.findings) - _MAX_FINDINGS
    if more > 0:
        lines += fields([("", f"and {more} more findings; --json tells all")])
    if verdict.state is not State.SOUND:
        lines += fields([("", verdict.advice)])
    return lines


def _summary(verdicts: list[Verdict]) -> str:
    counts: dict[str, int] = {}
    for verdict in verdicts:
        state = str(verdict.state).replace("_", " ")
        counts[state] = counts.get(state, 0) + 1
    return ", ".join(f"{num} {state}" for state, num in counts.items())


class _Progress:
    """What is done to a target on standard error, where that is a terminal."""

    def __init__(self, target: Target, level: Level) -> None:
        self._target = target
        self._is_deep = level is Level.DEEP
        self._is_shown = sys.stderr.isatty()
        self._told_s = time.monotonic()

    def __call__(self, done_bytes: int, total_bytes: int) -> None:
        if not self._is_shown or not total_bytes:
            return
        # What comes after the last byte of a deep look takes seconds.
        is_read = self._is_deep and done_bytes >= total_bytes
        if not is_read and time.monotonic() - self._told_s < _TELL_S:
            return
        self._told_s = time.monotonic()
        what = "looking at the values of"
        if not is_read:
            what = f"{units.percent(done_bytes / total_bytes)} of"
        name = units.visible(self._target.name)[-_MAX_NAME:]
        sys.stderr.write(f"\r\x1b[K{what} {name}")
        sys.stderr.flush()

    def clear(self) -> None:
        if self._is_shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
