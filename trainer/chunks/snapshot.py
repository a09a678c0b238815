"""What goes into a round: tensors, which of them are buffers, the optimizer.

A snapshot refers to the tensors' own memory; it is valid until the model
trains on. Tied tensors are found by their memory and stored once.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from agent.rundir.chunks.records import (
    BUFFER,
    OPTIMIZER,
    PARAMETER,
    TRANSIENT_BUFFER,
    TensorRow,
)
from trainer.chunks.nested import OPTIMIZER_PREFIX, take_apart
from trainer.chunks.tensors import (
    byte_view,
    dtype_name,
    has_nonfinite,
    quantizer_text,
    settle,
    stored_bytes,
)


@dataclass(frozen=True)
class ModelTensors:
    """The tensors of a model, parameters and buffers told apart."""

    tensors: dict[str, Tensor]
    buffers: frozenset[str]
    """Names of all buffers, the transient ones included."""
    transient: frozenset[str]
    """Buffers that the model's `state_dict` leaves out."""


@dataclass(frozen=True)
class Snapshot:
    """Tensors ready to be cut: one row and, unless tied, one view each."""

    rows: tuple[TensorRow, ...]
    views: Mapping[str, memoryview]
    """Bytes by name; tied tensors have none of their own."""
    nonfinite: tuple[str, ...]
    optimizer: str | None
    """JSON of the optimizer's state around its tensors."""


def model_tensors(model: nn.Module) -> ModelTensors:
    """Return a model's parameters and buffers, tied and transient ones too."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    buffers = dict(model.named_buffers(remove_duplicate=False))
    kept = model.state_dict(keep_vars=True)
    return ModelTensors(
        tensors={**parameters, **buffers},
        buffers=frozenset(buffers),
        transient=frozenset(buffers.keys() - kept.keys()),
    )


def take_snapshot(
    tensors: Mapping[str, Tensor],
    *,
    buffers: Collection[str] = (),
    transient: Collection[str] = (),
    optimizer: Mapping[str, Any] | None = None,
) -> Snapshot:
    """Look at every tensor once.

    Raises:
        TypeError: a tensor is not dense, or the optimizer's state is not plain.
        ValueError: a buffer is not among the tensors, or a name is reserved.
    """
    kinds = _kinds(tensors, buffers, transient)
    text, moments = (None, {}) if optimizer is None else take_apart(optimizer)
    everything = {**tensors, **moments}
    rows: list[TensorRow] = []
    views: dict[str, memoryview] = {}
    bad: set[str] = set()
    owners: dict[object, str] = {}
    for name, tensor in everything.items():
        owner = owners.setdefault(_memory(tensor, name), name)
        settled = settle(tensor, name)
        kind = kinds.get(name, OPTIMIZER)
        rows.append(_row(name, kind, settled, None if owner == name else owner))
        if owner == name:
            views[name] = byte_view(settled)
        if owner in bad or (owner == name and has_nonfinite(settled)):
            bad.add(name)
    return Snapshot(tuple(rows), views, tuple(n for n in everything if n in bad), text)


def _kinds(
    tensors: Mapping[str, Tensor], buffers: Collection[str], transient: Collection[str]
) -> dict[str, str]:
    unknown = (set(buffers) | set(transient)) - tensors.keys()
    if unknown:
        raise ValueError(f"buffers that are not among the tensors: {sorted(unknown)}")
    reserved = [name for name in tensors if name.startswith(OPTIMIZER_PREFIX)]
    if reserved:
        raise ValueError(f"`{OPTIMIZER_PREFIX}` is reserved: {reserved}")
    kinds = dict.fromkeys(tensors, PARAMETER)
    kinds.update(dict.fromkeys(buffers, BUFFER))
    kinds.update(dict.fromkeys(transient, TRANSIENT_BUFFER))
    return kinds


def _memory(tensor: Tensor, name: str) -> object:
    """Return what two names have in common if they are the same tensor."""
    is_alone = tensor.numel() == 0 or tensor.layout is not torch.strided
    if is_alone or tensor.is_meta:
        return name
    return (
        tensor.device,
        tensor.dtype,
        tensor.data_ptr(),
        tensor.shape,
        tensor.stride(),
        tensor.is_conj(),
        tensor.is_neg(),
    )


def _row(name: str, kind: str, settled: Tensor, alias_of: str | None) -> TensorRow:
    return TensorRow(
        name=name,
        kind=kind,
        dtype=dtype_name(settled.dtype),
        shape=tuple(settled.shape),
        item_bytes=settled.element_size(),
        num_bytes=stored_bytes(settled),
        alias_of=alias_of,
        quantizer=quantizer_text(settled, name),
    )
