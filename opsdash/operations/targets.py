"""What can be verified, and what was found there, in words.

A pure read: nothing here writes into the run. A chunk store answers with the
same kind of verdict as a checkpoint.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from agent.rundir.checkpoints import Stage, list_checkpoints
from agent.rundir.errors import NoCheckpointError, RunDirError
from agent.rundir.layout import RunDir
from agent.rundir.verify.verdict import EXIT_DAMAGED, Finding, Level, State, Verdict
from agent.rundir.verify.watch import VerifyCancelled

if TYPE_CHECKING:
    from agent.rundir.chunks.verify import StoreFinding

Progress = Callable[[int, int], None]
IsCancelled = Callable[[], bool]
_IN_PLACE = (Stage.PUBLISHED, Stage.VERIFIED, Stage.DAMAGED)


@dataclass(frozen=True, slots=True)
class Target:
    """Something to verify."""

    path: Path
    name: str
    """As it is shown: a checkpoint's name, `chunks/<node>`, or the path."""
    is_store: bool = False


def find_targets(path: Path) -> list[Target]:
    """Return what a path stands for: itself, or all that a run directory holds.

    Raises:
        NoCheckpointError: a run directory without checkpoint or store.
    """
    if not (path / "run.json").is_file():
        is_store = path.is_file() and path.name.endswith("_chunks.db")
        return [Target(path, str(path), is_store=is_store)]
    run = RunDir(path)
    found = [
        Target(checkpoint.path, checkpoint.name)
        for checkpoint in list_checkpoints(run)
        if checkpoint.stage in _IN_PLACE
    ]
    found += stores_of(run)
    if not found:
        raise NoCheckpointError(
            f"`{path}` has no checkpoint and no chunk store to verify",
            hint=f"opsdash status {path}",
        )
    return found


def verify_target(
    target: Target,
    level: Level = Level.CONTENT,
    *,
    progress: Progress | None = None,
    is_cancelled: IsCancelled | None = None,
) -> Verdict:
    """Read one target again.

    Raises:
        VerifyCancelled: `is_cancelled` said so.
    """
    if target.is_store:
        return _verify_store(target, level, progress, is_cancelled)
    from agent.rundir.verify.path import verify_path  # noqa: PLC0415 - 20 ms that only this needs

    return verify_path(target.path, level, progress=progress, is_cancelled=is_cancelled)


def first_finding(verdict: Verdict) -> str:
    """Return the first thing that a verdict names, with place; empty: nothing."""
    for finding in verdict.findings:
        return describe_finding(finding)
    return ""


def describe_finding(finding: Finding) -> str:
    """Return a finding in one line: file, record, tensor, offset, what."""
    places = [finding.file] if finding.file not in finding.message else []
    for what, name in (("record", finding.record), ("tensor", finding.tensor)):
        if name and name not in finding.message:
            places.append(f"{what} {name}")
    if finding.offset is not None:
        places.append(f"byte {finding.offset}")
    text = f"{', '.join(places)}: {finding.message}" if places else finding.message
    if finding.expected is not None and finding.found is not None:
        text += f" (expected {_short(finding.expected)}, found {_short(finding.found)})"
    return text


def _short(value: str) -> str:
    """Return enough of a digest to compare by eye; JSON has the whole."""
    return value if len(value) <= 24 else f"{value[:20]}..."


def stores_of(run: RunDir) -> Iterator[Target]:
    """Yield the chunk stores of a run, by node."""
    try:
        nodes = sorted(path.name for path in run.chunks.iterdir() if path.is_dir())
    except OSError:
        return
    for node in nodes:
        path = run.chunk_store(node)
        if path.is_file():
            yield Target(path, f"chunks/{node}", is_store=True)


def _verify_store(
    target: Target,
    level: Level,
    progress: Progress | None,
    is_cancelled: IsCancelled | None,
) -> Verdict:
    """Read a chunk store, as a verdict like a checkpoint's."""
    from agent.rundir.chunks.reader import ChunkStoreReader  # noqa: PLC0415 - SQLite only where it is needed

    started_ns = time.perf_counter_ns()
    num_bytes = 0
    try:
        with ChunkStoreReader(target.path) as reader:
            report = reader.verify(progress, is_cancelled)
        if report.was_cancelled:
            raise VerifyCancelled
        num_bytes = report.num_bytes
        findings = tuple(_store_finding(found) for found in report.findings)
        state = State.DAMAGED if findings else State.SOUND
    except RunDirError as error:
        is_damaged = error.exit_code == EXIT_DAMAGED
        state = State.DAMAGED if is_damaged else State.UNREADABLE
        findings = (Finding(file=target.name, message=str(error)),)
    return Verdict(
        path=str(target.path),
        state=state,
        level=level,
        format="chunk_store",
        findings=findings,
        num_bytes=num_bytes,
        elapsed_ns=time.perf_counter_ns() - started_ns,
        digest=None,
        advice=_STORE_ADVICE[state],
    )


def _store_finding(found: "StoreFinding") -> Finding:
    place = found.place
    message = found.detail or f"{place} is {found.finding}"
    if found.elsewhere:
        nodes = ", ".join(source.node for source in found.elsewhere)
        message = f"{message}; held by {nodes} too"
    return Finding(
        file=place.node,
        message=message,
        tensor=place.tensors[0] if place.tensors else None,
        expected=place.digest or None,
    )


_STORE_ADVICE = {
    State.SOUND: "nothing to do",
    State.DAMAGED: "the rounds named cannot be restored whole: take another round",
    State.UNREADABLE: "look at what it is",
}
