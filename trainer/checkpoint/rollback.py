"""Give up the branch above a step, so that nobody resumes it by mistake.

What lies above is renamed, never deleted: the history stays to be looked at.
"""

import itertools
from pathlib import Path

from agent.rundir.atomic import fsync_directory, write_atomic
from agent.rundir.checkpoints import SUPERSEDED_PREFIX, list_checkpoints
from agent.rundir.events import CheckpointSuperseded
from agent.rundir.layout import RunDir, parse_checkpoint_name
from trainer.checkpoint.lock import publishing
from trainer.checkpoint.telling import Emit


def supersede_above(
    run: RunDir, number: int, attempt: int, emit: Emit, *, start: str | None
) -> list[str]:
    """Set aside every published checkpoint above the one that is resumed from.

    Args:
        run: The run.
        number: Step or round in the name of the checkpoint that is resumed
            from; 0: from the beginning.
        attempt: The attempt that resumes; it goes into the new names.
        emit: Is told.
        start: Name of the checkpoint that is resumed from, which becomes
            `latest`; None: from the beginning.

    Returns:
        The names that were set aside.
    """
    if not run.checkpoints.is_dir():
        return []
    aside = []
    with publishing(run):
        for entry in list_checkpoints(run):
            name = entry.path.name
            if parse_checkpoint_name(name) is None or entry.number <= number:
                continue
            target = _free_name(entry.path, f"{SUPERSEDED_PREFIX}{attempt:04d}-{name}")
            entry.path.rename(target)
            emit(CheckpointSuperseded, checkpoint=name, renamed_to=target.name)
            aside.append(name)
        fsync_directory(run.checkpoints)
        if start is None:
            run.latest.unlink(missing_ok=True)
        else:
            write_atomic(run.latest, f"{start}\n".encode())
    return aside


def _free_name(path: Path, wanted: str) -> Path:
    """Return a name beside `path`: an attempt may give up the same step twice."""
    target = path.with_name(wanted)
    for number in itertools.count(2):
        if not target.exists():
            return target
        target = path.with_name(f"{wanted}.{number}")
    raise AssertionError("numbers do not end")
