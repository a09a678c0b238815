"""Look at one file by its path: whatever happens ends in an outcome."""

from collections.abc import Callable
from pathlib import Path

from agent.rundir.verify.file_format import verify_by_format
from agent.rundir.verify.outcome import Outcome
from agent.rundir.verify.source import (
    EndsEarlyError,
    NotReadableError,
    Source,
    open_source,
)
from agent.rundir.verify.task import Task
from agent.rundir.verify.text import visible
from agent.rundir.verify.verdict import State


def verify_file(path: Path, name: str, task: Task) -> Outcome:
    """Return what is found in a file that no manifest describes.

    Args:
        path: of the file.
        name: as findings call it.
        task: without a hasher.

    Raises:
        VerifyCancelled: the caller asked to stop.
    """
    outcome = Outcome()

    def look(source: Source) -> None:
        outcome.num_bytes = source.size
        verify_by_format(source, task, outcome)

    examine(path, name, outcome, look)
    return outcome


def examine(
    path: Path,
    name: str,
    outcome: Outcome,
    look: Callable[[Source], None],
    *,
    if_absent: State = State.UNREADABLE,
) -> None:
    """Open a file and look at it; what goes wrong becomes a finding.

    Args:
        path: of the file.
        name: as findings call it.
        outcome: takes the findings.
        look: reads it; may raise what reading raises.
        if_absent: the state if there is no regular file of that name.

    Raises:
        VerifyCancelled: the caller asked to stop.
    """
    try:
        with open_source(path, name) as source:
            try:
                look(source)
            except EndsEarlyError as error:
                _report_cut(source, error.offset, outcome)
            else:
                _report_change(source, outcome)
    except NotReadableError as error:
        state = if_absent if error.is_absent else State.UNREADABLE
        outcome.add(state, name, f"`{visible(name)}` cannot be verified: {error}")


def _report_cut(source: Source, offset: int, outcome: Outcome) -> None:
    outcome.add(
        State.TRUNCATED,
        source.name,
        f"`{visible(source.name)}` became shorter while it was read",
        offset=offset,
        differs=(f"{source.size:,} bytes", f"{offset:,} bytes"),
    )


def _report_change(source: Source, outcome: Outcome) -> None:
    if source.changed():
        outcome.add(
            State.UNREADABLE,
            source.name,
            f"`{visible(source.name)}` was written while it was read",
        )
