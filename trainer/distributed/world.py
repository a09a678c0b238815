"""Join the ranks and leave them again; a process without a group is alone.

Three groups with three time-outs: the default one carries gradients, `steps`
carries what every step agrees on and waits as long, `control` carries verdicts
and waits only seconds, because nobody enters it before the store has told that
all are there. Everything here works without a group: then it does nothing.
"""

import contextlib
import os
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Protocol

import msgspec
import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from agent.rundir.process import Liveness, ProcessId, liveness, this_process
from trainer.distributed.meeting import meet

CONTROL_TIMEOUT_S = 30.0
"""How far apart ranks may enter a verdict that the store has announced."""

_LAST_WORDS_S = 2.0
"""How long a rank that failed waits for rank 0 to say why, and go first."""


class BarrierWatch(Protocol):
    """Who is told that this rank arrives at a barrier and is released again."""

    def barrier(
        self, name: str, *, limit_s: float | None = None
    ) -> AbstractContextManager[None]:
        """Surround a wait at the barrier `name`."""
        ...


class NobodyWatches:
    """Before an agent is attached, and where none is wanted."""

    def barrier(
        self, name: str, *, limit_s: float | None = None
    ) -> AbstractContextManager[None]:
        """Surround a wait that nobody is told about."""
        del name, limit_s
        return contextlib.nullcontext()


@dataclass
class World:
    """This process's place among the ranks, and what they talk through."""

    rank: int = 0
    local_rank: int = 0
    world_size: int = 1
    local_world_size: int = 1
    num_nodes: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    store: Store | None = None
    """A connection of our own: a wait on it blocks no library call."""
    steps: dist.ProcessGroup | None = None
    """gloo; its time-out is that of the gradients."""
    control: dist.ProcessGroup | None = None
    """gloo, with a short time-out: verdicts only."""
    watch: BarrierWatch = field(default_factory=NobodyWatches)
    num_verdicts: int = 0
    """Verdicts so far; equal on all ranks, so it names the next one."""

    @property
    def is_main(self) -> bool:
        """Whether this rank writes what is written once."""
        return self.rank == 0

    @property
    def is_group(self) -> bool:
        """Whether there is a process group at all, be it of one rank."""
        return self.store is not None


@contextlib.contextmanager
def joined(
    *,
    backend: str = "auto",
    device: str = "auto",
    timeout_s: float = 1800.0,
    control_timeout_s: float = CONTROL_TIMEOUT_S,
) -> Iterator[World]:
    """Be one of the ranks for the length of a block, as the environment says.

    `RANK`, `WORLD_SIZE`, `MASTER_ADDR` and `MASTER_PORT` come from torchrun or
    from the user; without `RANK` the process is alone and has no group.

    Args:
        backend: `gloo`, `nccl`, or `auto`: nccl on CUDA, else gloo.
        device: `cpu`, `cuda`, or `auto`: CUDA where there is one per local rank.
        timeout_s: Of the collectives that carry gradients and steps.
        control_timeout_s: Of verdicts.
    """
    world = join(
        backend=backend,
        device=device,
        timeout_s=timeout_s,
        control_timeout_s=control_timeout_s,
    )
    first = _process_of(world, 0)
    try:
        yield world
    except BaseException:
        leave(world)
        # The first rank to go makes torchrun end the others; rank 0 speaks.
        if not world.is_main:
            _wait_until_gone(first, _LAST_WORDS_S)
        raise
    finally:
        leave(world)


def join(
    *,
    backend: str = "auto",
    device: str = "auto",
    timeout_s: float = 1800.0,
    control_timeout_s: float = CONTROL_TIMEOUT_S,
) -> World:
    """Become one of the ranks; see `joined`, which also leaves."""
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    local_world_size = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    chosen = choose_device(device, local_rank, local_world_size)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    if "RANK" not in os.environ:
        return World(device=chosen)
    timeout = timedelta(seconds=timeout_s)
    shared, rank, world_size = next(rendezvous("env://", timeout=timeout))
    store = meet(shared, rank, world_size, timeout_s=timeout_s)
    if backend == "auto":
        backend = "nccl" if chosen.type == "cuda" else "gloo"
    dist.init_process_group(
        backend,
        store=PrefixStore("default", store),
        rank=rank,
        world_size=world_size,
        timeout=timeout,
    )
    control = dist.new_group(
        backend="gloo", timeout=timedelta(seconds=control_timeout_s)
    )
    own_store = PrefixStore("trainer", store.clone())  # type: ignore[attr-defined]  # torch's stub lacks it
    own_store.set(_process_key(rank), msgspec.json.encode(this_process()).decode())
    return World(
        rank=rank,
        local_rank=local_rank,
        world_size=world_size,
        local_world_size=local_world_size,
        num_nodes=max(1, world_size // max(1, local_world_size)),
        device=chosen,
        store=own_store,
        steps=dist.new_group(backend="gloo", timeout=timeout),
        control=control,
    )


def leave(world: World) -> None:
    """Take the group down; a process that is alone has nothing to leave."""
    if world.is_group and dist.is_initialized():
        dist.destroy_process_group()
    world.store = world.steps = world.control = None


def choose_device(wanted: str, local_rank: int, local_world_size: int) -> torch.device:
    """Return `cuda:<local_rank>` where every local rank has its own, else the CPU.

    Args:
        wanted: `auto`, `cpu` or `cuda`.
        local_rank: Within this host.
        local_world_size: Ranks on this host.
    """
    num_devices = torch.cuda.device_count() if wanted != "cpu" else 0
    if wanted == "cuda" and num_devices:
        return torch.device("cuda", local_rank % num_devices)
    if num_devices >= local_world_size:
        return torch.device("cuda", local_rank)
    return torch.device("cpu")


def is_known_dead(world: World, rank: int) -> ProcessId | None:
    """Return a rank's process if it is gone for certain, else None.

    Another host's process is never known to be dead.
    """
    process = _process_of(world, rank)
    if process is None or liveness(process) is not Liveness.DEAD:
        return None
    return process


def _process_of(world: World, rank: int) -> ProcessId | None:
    if world.store is None or not world.store.check([_process_key(rank)]):
        return None
    return msgspec.json.decode(world.store.get(_process_key(rank)), type=ProcessId)


def _process_key(rank: int) -> str:
    return f"process/{rank}"


def _wait_until_gone(process: ProcessId | None, limit_s: float) -> None:
    deadline = time.monotonic() + limit_s
    while process is not None and time.monotonic() < deadline:
        if liveness(process) is not Liveness.ALIVE:
            return
        time.sleep(0.02)
