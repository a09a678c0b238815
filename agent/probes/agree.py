"""What a foreign training loop does together: obey a request, pass a barrier.

Rank 0 alone reads requests; a request becomes everybody's by two small
all-reduces, the second only where there is one. Whether all ranks can do it is
agreed on before any begins. Call it unconditionally, at equal steps, outside
anything that swallows errors: a rank that stays away hangs the others.
Nothing that a peer sent is unpickled.
"""

from contextlib import AbstractContextManager
from typing import Protocol

import msgspec
import torch
import torch.distributed as dist

from agent.probes.pending import PendingRequest
from agent.rundir.requests import MAX_REQUEST_BYTES


class Obeying(Protocol):
    """What an agent tells about requests."""

    def at_step(self, step: int) -> PendingRequest | None:
        """Return what waits to be done; a local read."""
        ...

    def claim(self, request: PendingRequest) -> bool:
        """Take a request; False: it is gone."""
        ...

    def can_do(self, request: PendingRequest) -> bool:
        """Whether this rank takes requests of that kind."""
        ...

    def refuse(self, request: PendingRequest, reason: str) -> None:
        """Tell that a claimed request is not carried out."""
        ...


class Watching(Protocol):
    """What an agent tells about barriers."""

    def barrier(
        self, name: str, *, limit_s: float | None = None
    ) -> AbstractContextManager[None]:
        """Wrap a wait that may block."""
        ...


def pass_barrier(
    agent: Watching,
    name: str,
    *,
    limit_s: float | None = None,
    group: dist.ProcessGroup | None = None,
) -> None:
    """Wait for all ranks, as `dist.barrier()` does, at a barrier with a name.

    Outside a process group there is nobody to wait for, and nothing is told.

    Args:
        agent: Of this rank.
        name: E.g. `checkpoint.save`; the same on all ranks.
        limit_s: How long it may take before it is called a hang, in seconds;
            None: the agent's default.
        group: Who waits; None: the default group.

    Raises:
        RuntimeError: the collective failed, as any of the trainer's own would.
    """
    if dist.is_available() and dist.is_initialized():
        with agent.barrier(name, limit_s=limit_s):
            dist.barrier(group=group)


def agree(
    agent: Obeying,
    step: int,
    *,
    every: int = 10,
    group: dist.ProcessGroup | None = None,
) -> PendingRequest | None:
    """Return the request that all ranks carry out now; the same on all of them.

    Costs nothing but the division on most steps, and one all-reduce of eight
    bytes (0.25 ms on gloo) every `every` steps.

    Args:
        agent: Of this rank.
        step: Optimizer steps completed, equal on all ranks.
        every: Steps, never seconds: clocks differ.
        group: All ranks; None: the default group. Without a group this rank
            decides alone.

    Raises:
        RuntimeError: a collective failed, as any of the trainer's own would.
    """
    if step % every:
        return None
    return share(agent, agent.at_step(step), group=group)


def share(
    agent: Obeying,
    proposed: PendingRequest | None,
    *,
    group: dist.ProcessGroup | None = None,
) -> PendingRequest | None:
    """Agree on what rank 0 proposes; other ranks' proposals are not looked at.

    Raises:
        RuntimeError: a collective failed.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return _alone(agent, proposed)
    is_main = dist.get_rank() == 0
    payload = b""
    if is_main and proposed is not None and agent.claim(proposed):
        payload = msgspec.json.encode(proposed)
    device = _device(group)
    size = torch.tensor([len(payload)], device=device)
    dist.all_reduce(size, op=dist.ReduceOp.MAX, group=group)
    if not size.item():
        return None
    request = _decode(_exchange(payload, int(size.item()), device, group))
    is_able = request is not None and agent.can_do(request)
    unable = torch.tensor([0 if is_able else 1], device=device)
    dist.all_reduce(unable, group=group)
    if request is None or unable.item():
        if is_main and proposed is not None:
            agent.refuse(proposed, f"{int(unable.item())} ranks cannot carry it out")
        return None
    return request


def _alone(agent: Obeying, proposed: PendingRequest | None) -> PendingRequest | None:
    if proposed is None or not agent.claim(proposed):
        return None
    if not agent.can_do(proposed):
        agent.refuse(proposed, "this rank cannot carry it out")
        return None
    return proposed


def _exchange(
    payload: bytes,
    size: int,
    device: torch.device,
    group: dist.ProcessGroup | None,
) -> bytes:
    """Return rank 0's bytes on every rank: the others contribute zeros."""
    data = torch.zeros(size, dtype=torch.uint8)
    if payload:
        data = torch.frombuffer(bytearray(payload), dtype=torch.uint8)
    data = data.to(device)
    dist.all_reduce(data, op=dist.ReduceOp.MAX, group=group)
    return bytes(data.tolist())


def _decode(data: bytes) -> PendingRequest | None:
    """Read what came; a rank that cannot says so instead of raising."""
    if len(data) > 2 * MAX_REQUEST_BYTES:
        return None
    try:
        return msgspec.json.decode(data, type=PendingRequest)
    except msgspec.DecodeError:
        return None


def _device(group: dist.ProcessGroup | None) -> torch.device:
    """Return where the group's tensors lie: on the CPU, if it takes them there."""
    backend = dist.get_backend(group)
    kinds = dist.Backend.backend_capability.get(backend, ["cpu"])
    if "cpu" in kinds:
        return torch.device("cpu")
    return torch.device(kinds[0], torch.get_device_module(kinds[0]).current_device())
