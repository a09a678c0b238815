"""Go wrong on purpose, so that watching, stopping and resuming can be practised.

What a drill asks for is meant for one start: it is never part of what starts a
run again.
"""

import os
import signal
import threading
import time

from trainer.config import TrainConfig


def drill(config: TrainConfig, rank: int, step: int) -> None:
    """Be late, hang or die before the step that follows `step` completed ones."""
    if config.die_at and step >= config.die_at:
        os.kill(os.getpid(), signal.SIGKILL)
    if rank != config.drill_rank:
        return
    if config.drill_delay_ms:
        time.sleep(config.drill_delay_ms / 1e3)
    if config.drill_hang_at and step >= config.drill_hang_at:
        threading.Event().wait()
