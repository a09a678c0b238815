"""Prove that a restored state is the saved one, bit for bit, piece by piece.

Which piece is missing says more than that two losses differ: without the
optimizer, the random numbers or the data position a run goes on, and is another
run.
"""

from typing import Any

import torch
from torch import Tensor

from agent.rundir.errors import RunDirError
from trainer.checkpoint.rng import capture_rng
from trainer.checkpoint.state import TrainState, capture
from trainer.distributed.world import World


class NotRestoredError(RunDirError):
    """A piece of state is not what the checkpoint holds."""


def require_equal(saved: dict[str, Any], state: TrainState, world: World) -> None:
    """Compare this rank's state with a saved one.

    Raises:
        NotRestoredError: the first pieces that differ, by name.
    """
    rng = list(saved["rng"])
    if world.rank < len(rng):
        rng[world.rank] = capture_rng(world.device)
    different = differences(saved, capture(state, rng))
    if different:
        pieces = ", ".join(f"`{name}`" for name in different[:5])
        raise NotRestoredError(
            f"rank {world.rank} did not restore {pieces}"
            + (f" and {len(different) - 5} more" if len(different) > 5 else "")
        )


def differences(one: Any, other: Any, path: str = "") -> list[str]:  # noqa: ANN401 - any saved type
    """Return the paths at which two saved states are not bitwise equal."""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return [] if is_bitwise_equal(one, other) else [path]
    if isinstance(one, dict) and isinstance(other, dict):
        found = [f"{path}.{k}".lstrip(".") for k in one.keys() ^ other.keys()]
        for key in one.keys() & other.keys():
            found += differences(one[key], other[key], f"{path}.{key}".lstrip("."))
        return sorted(found)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        if len(one) != len(other):
            return [path]
        return [
            name
            for index, pair in enumerate(zip(one, other, strict=True))
            for name in differences(*pair, f"{path}.{index}")
        ]
    return [] if type(one) is type(other) and one == other else [path]


def is_bitwise_equal(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors have the same type, shape and bits; NaN equals itself."""
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    bits = [
        t.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        if t.numel()
        else torch.empty(0)
        for t in (one, other)
    ]
    return torch.equal(*bits)
