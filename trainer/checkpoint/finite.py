"""Find NaN and infinity in a tensor, at the price of one sum where there is none.

A sum is not finite if any element is not (and seldom otherwise), and costs a
tenth of asking every element; only a suspect tensor is looked at element by
element, in blocks, so that a mapped file never has to fit into memory.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

_BLOCK_ELEMENTS = 1 << 24
_SUMMED_AS = {torch.float16: torch.float32, torch.bfloat16: torch.float32}
"""Sums that could overflow although every element is finite."""
_FOUR_BITS = getattr(torch, "float4_e2m1fn_x2", None)
"""Has no code for what is not finite, and no arithmetic; not in every torch."""


class NotFinite(NamedTuple):
    """How many elements of a tensor are not finite."""

    num_nan: int
    num_positive: int
    """Of `+inf`."""
    num_negative: int
    """Of `-inf`, which masks have on purpose."""

    def __str__(self) -> str:
        """Return what there is, in words."""
        counts = zip(("nan", "+inf", "-inf"), self, strict=True)
        return ", ".join(f"{count:,} {name}" for name, count in counts if count)


def find_not_finite(tensor: Tensor) -> NotFinite | None:
    """Count what is not finite in a tensor; None if everything is.

    Args:
        tensor: any dtype, layout and device; integers are always finite.
    """
    values = _values(tensor)
    if values is None or not values.numel() or _is_sum_finite(values):
        return None
    counts = torch.zeros(3, dtype=torch.int64)
    for block in _iter_blocks(values):
        wide = block.float() if block.dtype.itemsize == 1 else block
        found = (wide.isnan(), wide.isposinf(), wide.isneginf())
        counts += torch.stack([kind.sum() for kind in found]).cpu()
    return NotFinite(*counts.tolist()) if counts.any() else None


def _iter_blocks(values: Tensor) -> Iterator[Tensor]:
    flat = values.reshape(-1)
    for start in range(0, flat.numel(), _BLOCK_ELEMENTS):
        yield flat[start : start + _BLOCK_ELEMENTS]


def _values(tensor: Tensor) -> Tensor | None:
    """Return the floating-point numbers of a tensor, None if it has none."""
    if tensor.is_meta or tensor.is_quantized or tensor.dtype is _FOUR_BITS:
        return None
    if tensor.layout is not torch.strided:
        tensor = tensor.detach()
        if tensor.layout is not torch.sparse_coo:
            return tensor.values() if tensor.is_floating_point() else None
        tensor = tensor.coalesce().values()
    if tensor.is_complex():
        return torch.view_as_real(tensor.detach().resolve_conj())
    return tensor.detach() if tensor.is_floating_point() else None


def _is_sum_finite(values: Tensor) -> bool:
    if values.dtype.itemsize == 1:  # 8-bit floats have no sum
        return all(
            bool(block.float().sum().isfinite()) for block in _iter_blocks(values)
        )
    total = values.sum(dtype=_SUMMED_AS.get(values.dtype, values.dtype))
    return bool(total.isfinite())
