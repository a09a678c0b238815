"""Every rank's random number generators, as bytes that fit into tensors.

Tensors, because ranks exchange them through a collective that unpickles
nothing, and because `torch.load(weights_only=True)` takes them, which it does
not do for NumPy's own state.
"""

import random
import sys
from typing import Any

import msgspec
import torch
import torch.distributed as dist
from torch import Tensor

from trainer.distributed.world import World

PARTS = ("torch", "cuda", "python", "numpy")
"""Generators that a process may have; one that it lacks is an empty tensor."""


def capture_rng(device: torch.device) -> dict[str, Tensor]:
    """Return the state of every global generator of this process.

    Returns:
        For each of PARTS a (num_bytes,) uint8 tensor on the CPU.
    """
    cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else b""
    return {
        "torch": torch.get_rng_state(),
        "cuda": cuda if isinstance(cuda, Tensor) else _as_tensor(cuda),
        "python": _as_tensor(msgspec.msgpack.encode(random.getstate())),
        "numpy": _as_tensor(_numpy_state()),
    }


def restore_rng(state: dict[str, Tensor], device: torch.device) -> None:
    """Put every generator back; one that has no saved state is left alone."""
    torch.set_rng_state(state["torch"])
    if device.type == "cuda" and len(state["cuda"]):
        torch.cuda.set_rng_state(state["cuda"], device)
    if len(state["python"]):
        version, internal, gauss = msgspec.msgpack.decode(_as_bytes(state["python"]))
        random.setstate((version, tuple(internal), gauss))
    if len(state["numpy"]):
        _set_numpy_state(_as_bytes(state["numpy"]))


def seed_everything(seed: int, rank: int) -> None:
    """Give each rank its own, reproducible random numbers."""
    mixed = seed * 1_000_003 + rank
    random.seed(mixed)
    torch.manual_seed(mixed)
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed(mixed % 2**32)


def gather_rng(world: World, mine: dict[str, Tensor]) -> list[dict[str, Tensor]]:
    """Exchange all ranks' states. Every rank has to call it.

    Returns:
        One state per rank, in order.
    """
    if world.steps is None:
        return [mine]
    lengths = torch.tensor([len(mine[part]) for part in PARTS])
    all_lengths = [torch.empty_like(lengths) for _ in range(world.world_size)]
    dist.all_gather(all_lengths, lengths, group=world.steps)
    longest = max(int(found.sum()) for found in all_lengths)
    padded = torch.zeros(longest, dtype=torch.uint8)
    padded[: int(lengths.sum())] = torch.cat([mine[part] for part in PARTS])
    gathered = [torch.empty_like(padded) for _ in range(world.world_size)]
    dist.all_gather(gathered, padded, group=world.steps)
    return [
        _unpack(data, found) for data, found in zip(gathered, all_lengths, strict=True)
    ]


def _unpack(data: Tensor, lengths: Tensor) -> dict[str, Tensor]:
    pieces = torch.split(data[: int(lengths.sum())], lengths.tolist())
    # Clones: views would save the padded whole with each of them.
    return {part: piece.clone() for part, piece in zip(PARTS, pieces, strict=True)}


def _numpy_state() -> bytes:
    """Return NumPy's global generator, if the process has NumPy at all."""
    numpy: Any = sys.modules.get("numpy")
    if numpy is None:
        return b""
    name, key, position, has_gauss, gauss = numpy.random.get_state()
    state = [name, key.tobytes(), int(position), int(has_gauss), float(gauss)]
    return msgspec.msgpack.encode(state)


def _set_numpy_state(data: bytes) -> None:
    import numpy as np  # noqa: PLC0415 - a process without it need not load it

    name, key, position, has_gauss, gauss = msgspec.msgpack.decode(data)
    words = np.frombuffer(key, dtype=np.uint32)
    np.random.set_state((name, words, position, has_gauss, gauss))


def _as_tensor(data: bytes) -> Tensor:
    if not data:
        return torch.empty(0, dtype=torch.uint8)
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)


def _as_bytes(data: Tensor) -> bytes:
    return bytes(data.tolist())
