"""The bytes of a tensor, and a tensor around bytes: bit for bit, any dtype.

Nothing is converted on the way: a tensor's storage is viewed as `uint8`,
which works for `bfloat16`, 8-bit floats and packed dtypes that NumPy does not
know. Quantized tensors carry their scale and zero point beside the bytes.
"""

import json
import math
import warnings
from typing import Any

import torch
from torch import Tensor

from agent.rundir.chunks.layout import BadLayoutError
from agent.rundir.chunks.records import TensorRow, encode_json
from trainer.chunks.hints import prefer_huge_pages

_PACKED = frozenset({torch.quint4x2, torch.quint2x4})

# No conversion and no arithmetic exists for these; they hold no infinity.
_ALWAYS_FINITE = frozenset({torch.float4_e2m1fn_x2})

_PER_CHANNEL = frozenset({torch.per_channel_affine})


def settle(tensor: Tensor, name: str) -> Tensor:
    """Return the tensor as contiguous CPU memory, copied only if it must be.

    Raises:
        TypeError: sparse, without data, or spread over several ranks.
    """
    if tensor.layout is not torch.strided or tensor.is_meta:
        raise TypeError(f"`{name}` is not a dense tensor: {tensor.layout}")
    if hasattr(tensor, "__tensor_flatten__"):
        raise TypeError(f"`{name}` is a {type(tensor).__name__}: gather it first")
    settled = tensor.detach()
    if settled.is_conj():
        settled = settled.resolve_conj()
    if settled.is_neg():
        settled = settled.resolve_neg()
    is_byte = settled.element_size() == 1 and not settled.is_quantized
    if is_byte:
        # torch cannot copy integers of 1 to 7 bits as what they are.
        settled = settled.view(torch.uint8).cpu().contiguous().view(settled.dtype)
    else:
        settled = settled.cpu().contiguous()
    if settled.dtype in _PACKED and settled.storage_offset():
        settled = settled.clone()
    return settled


def byte_view(settled: Tensor) -> memoryview:
    """Return the memory of a settled tensor, not a copy, one byte per item."""
    num_bytes = stored_bytes(settled)
    flat = torch.empty(0, dtype=torch.uint8)
    offset = settled.storage_offset() * settled.element_size()
    flat.set_(settled.untyped_storage(), offset, (num_bytes,), (1,))
    return flat.numpy().data


def stored_bytes(settled: Tensor) -> int:
    """Return how many bytes hold a settled tensor's elements."""
    if settled.dtype in _PACKED:
        return settled.untyped_storage().nbytes()
    return settled.numel() * settled.element_size()


def dtype_name(dtype: torch.dtype) -> str:
    """Return torch's name without the prefix."""
    return str(dtype).removeprefix("torch.")


def parse_dtype(name: str) -> torch.dtype:
    """Return the dtype with this name.

    Raises:
        BadLayoutError: this torch does not have it.
    """
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype):
        raise BadLayoutError(f"torch {torch.__version__} has no dtype `{name}`")
    return dtype


def empty_tensor(row: TensorRow) -> Tensor:
    """Return memory for a stored tensor, to be filled through `byte_view`.

    Raises:
        BadLayoutError: dtype, shape and size do not fit together.
    """
    dtype = parse_dtype(row.dtype)
    if row.quantizer is not None:
        tensor = _empty_quantized(row, dtype, row.quantizer)
    else:
        # Checked before the memory is asked for: a layout can come from a peer.
        if math.prod(row.shape) * dtype.itemsize != row.num_bytes:
            raise _bad_size(row)
        tensor = torch.empty(row.shape, dtype=dtype)
        prefer_huge_pages(tensor)
    if stored_bytes(tensor) != row.num_bytes:
        raise _bad_size(row)
    return tensor


def quantizer_text(tensor: Tensor, name: str) -> str | None:
    """Return scale, zero point and scheme as JSON; None if not quantized.

    Raises:
        TypeError: the scheme is not affine.
    """
    if not tensor.is_quantized:
        return None
    scheme = tensor.qscheme()
    if scheme == torch.per_tensor_affine:
        return encode_json([tensor.q_scale(), tensor.q_zero_point()])
    if scheme in _PER_CHANNEL:
        return encode_json(
            [
                tensor.q_per_channel_scales().tolist(),
                tensor.q_per_channel_zero_points().tolist(),
                tensor.q_per_channel_axis(),
            ]
        )
    raise TypeError(f"`{name}` is quantized by `{scheme}`, which is not affine")


def has_nonfinite(settled: Tensor) -> bool:
    """Whether the tensor holds a NaN or an infinity.

    The sum is the canary: it is not finite if any element is not, and costs a
    seventeenth of looking at each one, which is done only on suspicion (a sum
    can overflow by itself).
    """
    if settled.is_quantized or settled.dtype in _ALWAYS_FINITE or not settled.numel():
        return False
    if settled.is_complex():
        settled = torch.view_as_real(settled)
    if not settled.is_floating_point():
        return False
    if settled.element_size() == 1:
        settled = settled.to(torch.float32)
    if math.isfinite(float(settled.sum())):
        return False
    return not bool(torch.isfinite(settled).all())


def _empty_quantized(row: TensorRow, dtype: torch.dtype, text: str) -> Tensor:
    try:
        quantizer = json.loads(text)
        if math.prod(row.shape) > row.num_bytes * 8:
            raise _bad_size(row)
        zeros = torch.zeros(row.shape)
        with warnings.catch_warnings():
            # Deprecated since torch 2.12, and the only public way to make one.
            warnings.simplefilter("ignore", UserWarning)
            return _quantized(zeros, dtype, quantizer)
    except (TypeError, ValueError, IndexError, RuntimeError) as error:
        raise BadLayoutError(f"`{row.name}` has no valid quantizer: {error}") from error


def _quantized(zeros: Tensor, dtype: torch.dtype, quantizer: list[Any]) -> Tensor:
    if len(quantizer) == 2:
        scale, zero_point = quantizer
        return torch.quantize_per_tensor(zeros, scale, zero_point, dtype)
    scales, zero_points, axis = quantizer
    return torch.quantize_per_channel(
        zeros,
        torch.tensor(scales, dtype=torch.float64),
        torch.tensor(zero_points, dtype=torch.int64),
        axis,
        dtype,
    )


def _bad_size(row: TensorRow) -> BadLayoutError:
    return BadLayoutError(
        f"`{row.name}`: {row.num_bytes} bytes do not hold "
        f"{row.dtype} of shape {list(row.shape)}"
    )
