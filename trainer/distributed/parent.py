"""Do not outlive torchrun: without it a rank can neither save nor be found.

torchrun starts ranks in sessions of their own, so that a kill of its process
group does not reach them; and its store, through which they agree, dies with
it. A rank that went on alone would keep the run locked and lose its work.
"""

import ctypes
import os
import signal

_PR_SET_PDEATHSIG = 1
"""Source: prctl(2)."""


def end_with_launcher() -> bool:
    """Ask the system for SIGTERM when the process that started this one ends.

    Only under torchrun: a process that a shell started may outlive the shell.

    Returns:
        Whether it was asked for.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return False
    try:
        prctl = ctypes.CDLL(None, use_errno=True).prctl
    except (OSError, AttributeError):
        return False
    return int(prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)) == 0
