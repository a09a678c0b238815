"""Barriers with a name, which are nothing at all outside a process group."""

import torch.distributed as dist

from trainer.distributed.verdict import exchange
from trainer.distributed.world import World


def named_barrier(world: World, name: str, *, limit_s: float) -> None:
    """Wait until every rank has arrived; the wait is written down before it begins.

    Raises:
        RankMissingError: a rank did not arrive within the limit.
    """
    with world.watch.barrier(name, limit_s=limit_s):
        exchange(world, name, None, limit_s=limit_s)


def barrier_safe() -> None:
    """Run `torch.distributed.barrier()` inside a process group, else do nothing."""
    if dist.is_available() and dist.is_initialized():
        dist.barrier()
