"""Verify whatever lies at a path, and always answer with a verdict.

Never unpickles, never maps a file, never writes. Bad input of any kind ends in
a verdict; only cancellation ends without one.
"""

import stat
import time
from collections.abc import Callable
from pathlib import Path

from agent.rundir.layout import MANIFEST_NAME, parse_checkpoint_name
from agent.rundir.verify.advice import advise
from agent.rundir.verify.checkpoint import verify_checkpoint_dir
from agent.rundir.verify.deep import look_deep
from agent.rundir.verify.one_file import verify_file
from agent.rundir.verify.outcome import Outcome
from agent.rundir.verify.shards import METADATA_NAME, list_shards, verify_shards
from agent.rundir.verify.source import reason
from agent.rundir.verify.task import Task
from agent.rundir.verify.text import MAX_PATH_CHARACTERS, visible
from agent.rundir.verify.verdict import Level, State, Verdict
from agent.rundir.verify.watch import VerifyCancelled, Watch

__all__ = ["VerifyCancelled", "verify_path"]


def verify_path(
    path: Path,
    level: Level = Level.CONTENT,
    *,
    progress: Callable[[int, int], None] | None = None,
    is_cancelled: Callable[[], bool] | None = None,
    num_threads: int = 2,
) -> Verdict:
    """Say whether a checkpoint directory or file holds what was saved.

    Args:
        path: a published checkpoint, a DCP directory, a `.pt` or `.safetensors`
            file, or anything else.
        level: how much to look at. `deep` starts a process with torch, and only
            for what the content level did not find fault with.
        progress: called in this thread with bytes read so far and in all.
        is_cancelled: called in this thread every few milliseconds.
        num_threads: that read and compute; 1 starts none.

    Raises:
        VerifyCancelled: `is_cancelled` said so; there is no verdict.
    """
    started_ns = time.perf_counter_ns()
    task = Task(
        watch=Watch(progress=progress, is_cancelled=is_cancelled),
        with_content=level is not Level.STRUCTURE,
        num_threads=max(1, num_threads),
    )
    outcome = Outcome()
    digest = _verify_any(path, task, outcome)
    if level is Level.DEEP and outcome.state.severity <= State.NON_CANONICAL.severity:
        outcome.take(look_deep(path, task.watch))
    return Verdict(
        path=visible(str(path), MAX_PATH_CHARACTERS),
        state=outcome.state,
        level=level,
        format=outcome.format,
        findings=outcome.all_findings(),
        num_bytes=outcome.num_bytes,
        elapsed_ns=time.perf_counter_ns() - started_ns,
        digest=digest,
        advice=outcome.hint or advise(path, outcome.state, level, outcome.format),
    )


def _verify_any(path: Path, task: Task, outcome: Outcome) -> str | None:
    """Dispatch on what is there; return the manifest's digest if there is one."""
    name = path.name or str(path)
    try:
        found_at = path.stat()
        if not stat.S_ISDIR(found_at.st_mode):
            task.watch.total_bytes = found_at.st_size
            found = verify_file(path, name, task)
            outcome.format = found.format
            outcome.take(found)
            return None
        has_manifest = _has(path, MANIFEST_NAME)
        has_metadata = _has(path, METADATA_NAME)
    except (OSError, ValueError) as error:
        why = reason(error) if isinstance(error, OSError) else str(error)
        outcome.add(State.UNREADABLE, name, f"it cannot be read: {why}")
        return None
    if has_manifest:
        return verify_checkpoint_dir(path, task, outcome)
    if has_metadata:
        verify_shards(path, task, outcome)
    else:
        _report_directory(path, name, outcome)
    return None


def _has(directory: Path, name: str) -> bool:
    """Whether there is anything of that name; raises OSError if hidden."""
    try:
        (directory / name).lstat()
    except FileNotFoundError:
        return False
    return True


def _report_directory(path: Path, name: str, outcome: Outcome) -> None:
    if parse_checkpoint_name(path.name):
        # It gets this name only after its manifest was written.
        outcome.add(
            State.DAMAGED,
            MANIFEST_NAME,
            f"`{visible(name)}` is named as a checkpoint and its manifest is missing",
        )
    elif list_shards(path):
        # It is the last that is written.
        outcome.add(
            State.TRUNCATED,
            METADATA_NAME,
            f"`{visible(name)}` has shards and no `{METADATA_NAME}`: its save did "
            "not end",
        )
    else:
        outcome.add(
            State.UNREADABLE,
            name,
            f"`{visible(name)}` is a directory without a `{MANIFEST_NAME}`",
        )


def verify_checkpoint(path: str | Path) -> Verdict:
    """Read every byte of a checkpoint: `verify_path` by the name it is searched by.

    `verify_checkpoint("model.pt").state is State.SOUND` is the whole question.
    """
    return verify_path(Path(path))
