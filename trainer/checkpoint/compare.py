"""How far two checkpoints are apart: `python -m trainer compare OLD NEW`.

A dashboard runs this in a process of its own. Files are mapped and loaded with
`weights_only`, so nothing in them is run; one JSON object per tensor goes to
standard output, with progress in between.
"""

import math
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor

from agent.rundir.errors import UnreadableFileError
from agent.rundir.manifest import read_manifest
from trainer.console import say
from trainer.settings import UsageParser

_TELL_EVERY_S = 0.2
_BLOCK = 1 << 22


class Distance(msgspec.Struct, frozen=True, kw_only=True):
    """One tensor that both hold with the same shape; None: not finite."""

    tensor: str
    old_norm: float | None
    new_norm: float | None
    distance: float | None
    """Euclidean norm of the difference."""


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes of the newer checkpoint that were compared, and in all."""

    done_bytes: int
    total_bytes: int


def main(arguments: list[str]) -> int:
    """Print the distance of every tensor that both checkpoints hold."""
    parser = UsageParser(prog="python -m trainer compare", description=__doc__)
    parser.add_argument("old", type=Path, metavar="OLD")
    parser.add_argument("new", type=Path, metavar="NEW")
    known = parser.parse(arguments)
    told_s = time.monotonic()
    for distance, progress in compare(known.old, known.new):
        _print(distance)
        if time.monotonic() - told_s >= _TELL_EVERY_S:
            told_s = time.monotonic()
            _print(progress)
    return 0


def compare(old: Path, new: Path) -> Iterator[tuple[Distance, Progress]]:
    """Yield the distance of each tensor that both hold with the same shape.

    Raises:
        UnreadableFileError: a checkpoint cannot be read.
    """
    before, after = dict(_tensors(old)), dict(_tensors(new))
    total = sum(tensor.nbytes for tensor in after.values())
    done = 0
    for name, tensor in after.items():
        done += tensor.nbytes
        other = before.get(name)
        if other is not None and other.shape == tensor.shape:
            yield (
                _distance(name, other, tensor),
                Progress(done_bytes=done, total_bytes=total),
            )


def _tensors(path: Path) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors that a checkpoint's manifest names, by its names."""
    manifest, _ = read_manifest(path)
    for file in sorted({entry.file for entry in manifest.tensors}):
        try:
            state = torch.load(
                path / file, map_location="cpu", weights_only=True, mmap=True
            )
        except Exception as error:
            raise UnreadableFileError(
                f"`{path / file}` cannot be loaded: {error}",
                hint=f"opsdash verify {path}",
            ) from error
        for entry in manifest.tensors:
            if entry.file == file:
                found = _at(state, entry.name)
                if found is not None:
                    yield entry.name, found


def _at(state: Any, name: str) -> Tensor | None:  # noqa: ANN401 - whatever was saved
    """Return the tensor at a path of keys, some of which have dots in them."""
    if isinstance(state, Tensor):
        return state if not name else None
    items: Mapping[Any, Any] = {}
    if isinstance(state, Mapping):
        items = state
    elif isinstance(state, list | tuple):
        items = dict(enumerate(state))
    for key, value in items.items():
        if name == str(key):
            return _at(value, "")
        if name.startswith(f"{key}."):
            found = _at(value, name[len(str(key)) + 1 :])
            if found is not None:
                return found
    return None


def _distance(name: str, old: Tensor, new: Tensor) -> Distance:
    sums = [0.0, 0.0, 0.0]
    flat = (old.detach().reshape(-1), new.detach().reshape(-1))
    for start in range(0, max(1, flat[0].numel()), _BLOCK):
        parts = [_wide(side[start : start + _BLOCK]) for side in flat]
        for index, part in enumerate((*parts, parts[1] - parts[0])):
            sums[index] += float(part.abs().square().sum())
    norms = [math.sqrt(total) if math.isfinite(total) else None for total in sums]
    return Distance(
        tensor=name, old_norm=norms[0], new_norm=norms[1], distance=norms[2]
    )


def _wide(part: Tensor) -> Tensor:
    if part.is_quantized:
        part = part.dequantize()
    return part.to(torch.complex128 if part.is_complex() else torch.float64)


def _print(document: msgspec.Struct) -> None:
    say(msgspec.json.encode(document).decode())
