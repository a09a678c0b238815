"""What all ranks agree on at every step: loss, tokens, and whether to stop.

One small `all_reduce(SUM)` on the `steps` group. It stands after the forward
pass and before the last backward pass: behind it the gradients' own all-reduce
makes every rank equally late, so this is the one place in a step where a slow
data loader or forward pass is seen as *that* rank's lateness.

Signals and requests only raise a flag; flags are added up here, so that all
ranks see the same ones at the same step and act together.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from types import FrameType
from typing import NamedTuple

import torch
import torch.distributed as dist

from trainer.distributed.verdict import RankMissingError, published_failure
from trainer.distributed.world import World

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Want(IntEnum):
    """What any rank may ask of all at a step's boundary."""

    STOP = 0
    """Save and leave in good order."""
    SAVE = 1
    """Save and go on."""
    COLLECT = 2
    """Learn how the save in the background has ended."""
    REQUEST = 3
    """Carry out what an operator asks for."""


class StepPart(NamedTuple):
    """What one rank brings to a step's agreement."""

    loss_sum: float
    """Loss times samples, over this rank's samples."""
    num_samples: int
    num_tokens: int
    wants: frozenset[Want] = frozenset()
    has_failed: bool = False
    """This rank's forward pass raised: nobody may go on to the backward pass."""


class StepAgreement(NamedTuple):
    """The same on all ranks."""

    loss: float
    """Mean over the samples of all ranks; NaN where a rank's is."""
    num_samples: int
    num_tokens: int
    wants: frozenset[Want]
    num_failed: int


def agree_on_step(world: World, part: StepPart) -> StepAgreement:
    """Add up every rank's part of a step. Call it on all ranks, at equal steps.

    Raises:
        RankMissingError: a rank has left.
        RunDirError: the reason that a rank left behind.
    """
    wants = [float(want in part.wants) for want in Want]
    mine = [part.loss_sum, part.num_samples, part.num_tokens, part.has_failed, *wants]
    sums = torch.tensor(mine, dtype=torch.float64)
    if world.steps is not None:
        try:
            dist.all_reduce(sums, group=world.steps)
        except RuntimeError as error:
            raise published_failure(world) or RankMissingError(
                f"a rank left in the middle of a step: {str(error).splitlines()[0]}"
            ) from error
    loss_sum, num_samples, num_tokens, num_failed, *flags = sums.tolist()
    return StepAgreement(
        loss=loss_sum / num_samples if num_samples else loss_sum,
        num_samples=int(num_samples),
        num_tokens=int(num_tokens),
        wants=frozenset(want for want in Want if flags[want]),
        num_failed=int(num_failed),
    )


class StopFlag:
    """Set by a signal, read at a step's boundary."""

    signum: int | None = None
    """The first signal that asked to stop; None: none did."""

    @property
    def wants(self) -> frozenset[Want]:
        """What this process asks of all."""
        return frozenset() if self.signum is None else frozenset({Want.STOP})

    def raised(self, signum: int, frame: FrameType | None) -> None:
        """Handle a signal: remember it, nothing else."""
        del frame
        self.signum = self.signum or signum


@contextmanager
def stop_on_signals() -> Iterator[StopFlag]:
    """Turn SIGTERM, SIGINT and SIGHUP into a flag for the length of a block."""
    flag = StopFlag()
    if threading.current_thread() is not threading.main_thread():
        yield flag  # only the main thread may handle signals
        return
    previous = {signum: signal.signal(signum, flag.raised) for signum in STOP_SIGNALS}
    try:
        yield flag
    finally:
        for signum, handler in previous.items():
            signal.signal(signum, handler)
