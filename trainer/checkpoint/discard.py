"""Remove what was set aside, when somebody says so.

Retention takes only verified checkpoints that have a verified successor. What
is quarantined, superseded or damaged is evidence, and a partial directory of
another host may still be written: only an operator knows when they may go. Here
they go as in retention: by a rename first, and then they are unlinked.
"""

import shutil
from pathlib import Path

from agent.rundir.atomic import fsync_directory
from agent.rundir.checkpoints import (
    DOOMED_PREFIX,
    PARTIAL_PREFIX,
    CheckpointEntry,
    Stage,
    list_checkpoints,
)
from agent.rundir.errors import NoCheckpointError, RunDirError
from agent.rundir.layout import RunDir
from trainer.checkpoint.lock import is_alive, publishing

SET_ASIDE = frozenset({Stage.QUARANTINED, Stage.SUPERSEDED, Stage.DAMAGED})
"""Stages that only an operator ends."""


class NotSetAsideError(RunDirError):
    """A checkpoint is in use, or nobody has set it aside."""


def list_set_aside(run: RunDir) -> list[CheckpointEntry]:
    """Return what `discard` takes when nothing is named, newest step first."""
    return [
        entry
        for entry in list_checkpoints(run)
        if entry.stage in SET_ASIDE and not entry.is_pinned
    ]


def find_set_aside(run: RunDir, name: str) -> CheckpointEntry:
    """Return what has this very name on the disk, if it may go.

    Raises:
        NoCheckpointError: there is no such directory.
        NotSetAsideError: it may not go.
    """
    for entry in list_checkpoints(run):
        if entry.path.name == name:
            _refuse_what_is_in_use(entry)
            return entry
    raise NoCheckpointError(
        f"`{run.path}` has no checkpoint `{name}`",
        hint=f"opsdash checkpoints {run.path}",
    )


def discard(run: RunDir, entries: list[CheckpointEntry]) -> None:
    """Remove them for good.

    Raises:
        LockedError: somebody is publishing and does not finish.
        OSError: one cannot be renamed; it stays, and those after it.
    """
    with publishing(run):
        for entry in entries:
            target = run.checkpoints / (DOOMED_PREFIX + entry.path.name.lstrip("."))
            entry.path.rename(target)
            fsync_directory(run.checkpoints)
            shutil.rmtree(target, ignore_errors=True)


def num_bytes(directory: Path) -> int:
    """Return the bytes that a directory's files have."""
    found = 0
    for path in directory.rglob("*"):
        if path.is_file() and not path.is_symlink():
            found += path.stat().st_size
    return found


def _refuse_what_is_in_use(entry: CheckpointEntry) -> None:
    is_partial = entry.path.name.startswith(PARTIAL_PREFIX)
    if is_partial and is_alive(entry.path):
        raise NotSetAsideError(f"`{entry.path}` is being written")
    if entry.is_pinned:
        raise NotSetAsideError(
            f"`{entry.path.name}` is pinned",
            hint=f"python -m trainer unpin {entry.path.parent.parent} {entry.name}",
        )
    if entry.stage not in SET_ASIDE | {Stage.WRITING}:
        raise NotSetAsideError(
            f"`{entry.path.name}` is {entry.stage}: only what was set aside goes",
            hint=f"opsdash checkpoints {entry.path.parent.parent}",
        )
