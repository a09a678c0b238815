"""What changed between two rounds, tensor by tensor.

Chunks with equal digests are equal: a tensor whose chunks all are is not read
at all. Others are compared in blocks, in double precision, with one tensor of
each round in memory.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from agent.rundir.chunks.layout import RoundLayout
from agent.rundir.chunks.reader import ChunkStoreReader
from agent.rundir.chunks.records import OPTIMIZER, TensorRow
from trainer.chunks.restore import load_names
from trainer.chunks.tensors import byte_view

_BLOCK_ITEMS = 1 << 20

_Figures = tuple[float | None, float | None, float | None]
_UNKNOWN: _Figures = (None, None, None)


@dataclass(frozen=True, slots=True)
class TensorDiff:
    """How one tensor of a round differs from the same one of another round."""

    name: str
    kind: str
    state: str
    """`same`, `changed`, `added`, `removed` or `reshaped` (dtype or shape)."""
    l2: float | None
    """Euclidean norm of the difference; None where subtraction has no meaning
    or a value is not finite."""
    max_abs: float | None
    """Largest absolute difference of two elements; None as above."""
    cosine: float | None
    """Of the angle between both tensors; None as above, or if one is zero."""
    num_changed_chunks: int
    """Chunks of the newer round that the older one does not hold for it."""
    num_chunks: int
    """Chunks of the newer round that hold a part of it."""


def diff_rounds(
    reader: ChunkStoreReader,
    old_round: int,
    new_round: int,
    other: ChunkStoreReader | None = None,
) -> Iterator[TensorDiff]:
    """Yield one difference per tensor, in the order of the newer round.

    Args:
        reader: the store of `old_round`.
        old_round: the older round.
        new_round: the newer round.
        other: the store of `new_round`, if that is another node's.

    Raises:
        NoSuchRoundError: a store does not hold the round.
        MissingChunkError, DamagedChunkError: naming the chunk.
    """
    newer = other or reader
    sides = (
        _Side(reader, old_round, reader.layout(old_round)),
        _Side(newer, new_round, newer.layout(new_round)),
    )
    old_rows, new_rows = (side.rows() for side in sides)
    for name, row in new_rows.items():
        yield _diff(name, old_rows.get(name), row, sides)
    for name, row in old_rows.items():
        if name not in new_rows:
            yield TensorDiff(name, row.kind, "removed", *_UNKNOWN, 0, 0)


@dataclass(frozen=True)
class _Side:
    reader: ChunkStoreReader
    round_num: int
    layout: RoundLayout

    def rows(self) -> dict[str, TensorRow]:
        return {row.name: row for row in self.layout.tensors if row.kind != OPTIMIZER}

    def pieces_of(self, row: TensorRow) -> set[tuple[str, int, int, int]]:
        """Return digest, place in the chunk and range of each of its parts."""
        owner = row.alias_of or row.name
        pieces: set[tuple[str, int, int, int]] = set()
        for chunk in self.layout.chunks:
            at = 0
            for part in chunk.parts:
                if part.name == owner:
                    pieces.add((chunk.digest, at, part.flat_start, part.flat_end))
                at += part.flat_end - part.flat_start
        return pieces

    def load(self, name: str) -> Tensor:
        return load_names(self.reader, self.round_num, self.layout, [name])[name]


def _diff(
    name: str, old: TensorRow | None, new: TensorRow, sides: tuple[_Side, _Side]
) -> TensorDiff:
    pieces = sides[1].pieces_of(new)
    changed = pieces - (sides[0].pieces_of(old) if old else set())
    counts = len(changed), len(pieces)
    if old is None:
        return TensorDiff(name, new.kind, "added", *_UNKNOWN, *counts)
    if (old.dtype, old.shape, old.quantizer) != (new.dtype, new.shape, new.quantizer):
        return TensorDiff(name, new.kind, "reshaped", *_UNKNOWN, *counts)
    if not changed:
        return TensorDiff(name, new.kind, "same", 0.0, 0.0, 1.0, *counts)
    left, right = sides[0].load(name), sides[1].load(name)
    # The same tensor cut in another way has other chunks.
    state = "same" if byte_view(left) == byte_view(right) else "changed"
    return TensorDiff(name, new.kind, state, *_measure(left, right), *counts)


def _measure(old: Tensor, new: Tensor) -> _Figures:
    """Return L2 norm and maximum of the difference, and the cosine."""
    try:
        sums = _sums(old, new)
    except (NotImplementedError, RuntimeError):
        return _UNKNOWN  # bit fields and packed floats are no numbers to torch
    if not all(map(math.isfinite, sums)):
        return _UNKNOWN
    squares, largest, dots, old_squares, new_squares = sums
    norms = math.sqrt(old_squares) * math.sqrt(new_squares)
    return math.sqrt(squares), largest, dots / norms if norms else None


def _sums(old: Tensor, new: Tensor) -> tuple[float, float, float, float, float]:
    squares = dots = old_squares = new_squares = largest = 0.0
    for left, right in _blocks(old, new):
        gap = (right - left).abs()
        squares += float((gap * gap).sum())
        largest = max(largest, float(gap.max()))
        dots += float((left * right.conj()).sum().real)
        old_squares += float((left * left.conj()).sum().real)
        new_squares += float((right * right.conj()).sum().real)
    return squares, largest, dots, old_squares, new_squares


def _blocks(old: Tensor, new: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    dtype = torch.complex128 if old.is_complex() else torch.float64
    flat_old, flat_new = _numbers(old), _numbers(new)
    for start in range(0, flat_old.numel(), _BLOCK_ITEMS):
        end = start + _BLOCK_ITEMS
        yield flat_old[start:end].to(dtype), flat_new[start:end].to(dtype)


def _numbers(tensor: Tensor) -> Tensor:
    return (tensor.dequantize() if tensor.is_quantized else tensor).reshape(-1)
