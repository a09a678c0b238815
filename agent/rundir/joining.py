"""Find the attempt that rank 0 of this very start has begun.

Ranks of one start share a launch id; a lock that carries it, and whose holder
is not known to be gone, is theirs once the attempt is recorded: until then
rank 0 may still give the number up for the next. No collective is needed, so
that a trainer can embed the agent before it has a process group, or without.
"""

import time

from agent.rundir.errors import LockedError
from agent.rundir.layout import RunDir
from agent.rundir.lock import read_lock
from agent.rundir.process import Liveness

_POLL_S = 0.05


def wait_for_attempt(run: RunDir, launch_id: str, *, timeout_s: float) -> int:
    """Return the attempt, once rank 0 holds the lock and has recorded it.

    Args:
        run: Of this start.
        launch_id: What this start's ranks have in common.
        timeout_s: How long rank 0 may take.

    Raises:
        LockedError: none appeared; rank 0 was refused or never came.
    """
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        view = read_lock(run.lock)
        if (
            view is not None
            and view.holder.launch_id == launch_id
            and view.liveness is not Liveness.DEAD
            and run.attempt_file(view.holder.attempt).exists()
        ):
            return view.holder.attempt
        time.sleep(_POLL_S)
    raise LockedError(
        f"rank 0 of this start did not begin a run in `{run.path}` within "
        f"{timeout_s:.0f} s",
        hint=f"opsdash status {run.path}",
    )
