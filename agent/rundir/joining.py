"""Find the attempt that rank 0 of this very start has begun.

Ranks of one start share a launch id; a lock that carries it, and whose holder
is not known to be gone, is theirs once the attempt is recorded: until then
rank 0 may still give the number up for the next. A start on several hosts may
share its id with the one before it, whose lock nobody here can judge: such a
lock counts once its holder gives a sign of life. No collective is needed, so
that a trainer can embed the agent before it has a process group, or without.
"""

import os
import time
from pathlib import Path

from agent.rundir.errors import LockedError
from agent.rundir.layout import RunDir, rank_stem, telemetry_name
from agent.rundir.lock import Holder, read_lock
from agent.rundir.process import Liveness
from agent.rundir.segments import list_segments
from agent.rundir.windows import open_plain

_POLL_S = 0.05
_LIFE_PATIENCE_S = 30.0
"""Who beats more rarely is joined without a sign; who begins anew, before."""
_ACTING = (rank_stem(0), "server")
"""The processes that hold a run's lock."""

_joined_here: set[tuple[Holder, int]] = set()
"""By rank: what was joined from this program. It comes again for the next attempt,
and rank 0 may still be in the last one."""


def wait_for_attempt(
    run: RunDir, launch_id: str, *, rank: int, timeout_s: float
) -> int:
    """Return the attempt, once rank 0 holds the lock and has recorded it.

    Args:
        run: Of this start.
        launch_id: What this start's ranks have in common.
        rank: Who asks. Below 0: a client, which may come again to the same attempt.
        timeout_s: How long rank 0 may take.

    Raises:
        LockedError: none appeared; rank 0 was refused or never came.
    """
    deadline, life = time.monotonic() + timeout_s, _SignsOfLife(run)
    while time.monotonic() < deadline:
        view = read_lock(run.lock)
        if (
            view is not None
            and view.holder.launch_id == launch_id
            and view.liveness is not Liveness.DEAD
            and (rank < 0 or (view.holder, rank) not in _joined_here)
            and run.attempt_file(view.holder.attempt).exists()
            and (view.liveness is Liveness.ALIVE or life.is_in(view.holder))
        ):
            _joined_here.add((view.holder, rank))
            return view.holder.attempt
        time.sleep(_POLL_S)
    raise LockedError(
        f"rank 0 of this start did not begin a run in `{run.path}` within "
        f"{timeout_s:.0f} s",
        hint=f"opsdash status {run.path}",
    )


class _SignsOfLife:
    """Whether a holder that cannot be seen from here lives: its telemetry grows."""

    def __init__(self, run: RunDir) -> None:
        self._run = run
        self._holder: Holder | None = None
        self._size_bytes = 0
        self._since_s = 0.0

    def is_in(self, holder: Holder) -> bool:
        """Whether it has told anything since it was met, or for too long nothing."""
        folder = self._run.telemetry_file(holder.attempt, "x").parent
        size_bytes = sum(_size_bytes(folder, stem) for stem in _ACTING)
        if holder != self._holder:
            self._holder, self._size_bytes = holder, size_bytes
            self._since_s = time.monotonic()
        is_patient = time.monotonic() - self._since_s < _LIFE_PATIENCE_S
        return size_bytes > self._size_bytes or not is_patient


def _size_bytes(folder: Path, stem: str) -> int:
    """Return how much a process has told in an attempt so far.

    Opened, because a client of NFS may remember the size of what is not.
    """
    size = 0
    try:
        for segment in list_segments(folder, stem):
            fd = open_plain(folder / telemetry_name(stem, segment))
            size += os.fstat(fd).st_size
            os.close(fd)
    except OSError:  # it is being made, or was removed
        return 0
    return size
