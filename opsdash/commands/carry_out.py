"""Do what a plan says in a trainer's process, and wait for its end.

Leaving early, by whatever signal, ends that process first: what it has written
under temporary names it removes itself.
"""

import time

from opsdash.operations.trainer_command import TrainerCommand

_POLL_S = 0.1


def wait_for(command: TrainerCommand) -> None:
    """Return when the command has ended; end it when this one is to leave."""
    try:
        while not command.is_done:
            time.sleep(_POLL_S)
    except BaseException:
        command.cancel()
        command.wait()
        raise
