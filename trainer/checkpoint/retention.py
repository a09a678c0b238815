"""Which checkpoints stay, and how the others go.

The newest verified ones, the best one and pinned ones stay; the last verified
one always does. Nothing goes before its successor is verified. What goes is
renamed first and unlinked then, so that a crash in between leaves no half
checkpoint under a checkpoint's name. Foreign, quarantined, superseded and
unverified directories are not ours to remove: an operator discards them.
"""

import shutil
import time

from agent.rundir.atomic import fsync_directory
from agent.rundir.checkpoints import (
    DOOMED_PREFIX,
    CheckpointEntry,
    Stage,
    Verification,
    find_checkpoint,
    list_checkpoints,
)
from agent.rundir.events import CheckpointPruned
from agent.rundir.layout import RunDir
from trainer.checkpoint.lock import publishing
from trainer.checkpoint.telling import Emit
from trainer.checkpoint.verify import record

METRIC = "val_loss"
"""The least of it is the best checkpoint."""


def prune(run: RunDir, keep: int, emit: Emit) -> list[str]:
    """Remove what retention does not keep; call it after a verified save.

    Returns:
        The names that went, oldest first.

    Raises:
        OSError: a directory cannot be renamed; it stays.
    """
    gone = []
    with publishing(run):
        for entry in doomed(list_checkpoints(run), keep):
            target = entry.path.with_name(DOOMED_PREFIX + entry.name)
            entry.path.rename(target)
            fsync_directory(run.checkpoints)
            shutil.rmtree(target, ignore_errors=True)
            size = entry.manifest.size_bytes if entry.manifest else 0
            emit(CheckpointPruned, checkpoint=entry.name, freed_bytes=size)
            gone.append(entry.name)
    return gone


def doomed(entries: list[CheckpointEntry], keep: int) -> list[CheckpointEntry]:
    """Return the verified checkpoints that may go, oldest first.

    Args:
        entries: Of `list_checkpoints`: newest step first.
        keep: How many of the newest verified ones stay, at least one.
    """
    verified = [entry for entry in entries if entry.stage is Stage.VERIFIED]
    kept = {entry.name for entry in verified[: max(1, keep)]}
    best = best_checkpoint(verified)
    if best is not None:
        kept.add(best.name)
    candidates = [e for e in verified if e.name not in kept and not e.is_pinned]
    return candidates[::-1]


def best_checkpoint(entries: list[CheckpointEntry]) -> CheckpointEntry | None:
    """Return the verified checkpoint with the least held-out loss, if any has one."""
    measured = [
        (entry.manifest.metrics[METRIC], entry.number, entry)
        for entry in entries
        if entry.stage is Stage.VERIFIED
        and entry.manifest is not None
        and METRIC in entry.manifest.metrics
    ]
    return min(measured, key=lambda found: found[:2])[2] if measured else None


def set_pin(run: RunDir, name: str, *, is_pinned: bool, by: str) -> CheckpointEntry:
    """Pin a checkpoint, so that retention never removes it, or unpin it.

    Returns:
        The checkpoint, as it was before.

    Raises:
        NoCheckpointError: there is no checkpoint of that name.
        LockedError: somebody is publishing and does not finish.
    """
    entry = find_checkpoint(run, name)
    with publishing(run):
        record(
            run,
            Verification(
                checkpoint=entry.name,
                digest=entry.digest,
                time_ns=time.time_ns(),
                state="pinned" if is_pinned else "unpinned",
                level="",
                by=by,
                pinned=is_pinned,
            ),
        )
    return entry
