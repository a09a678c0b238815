"""Norms of gradients, parameters, updates and optimizer state.

All norms of a sample are computed by `torch._foreach_norm` and read with one
synchronisation; a norm that is not finite costs nothing extra to notice, and
names its tensor. State is read by whatever names the optimizer uses, so an
optimizer that nobody here knows is measured too.
"""

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from agent.rundir.events import GroupNorms

_MAX_NAMED = 8
"""Names of tensors in one event: the first few tell what happened."""
_UPDATE = "*update"
"""The last step's change; no optimizer calls a part of its state so."""
_PLAIN = (Tensor, torch.nn.Parameter)


@dataclass(frozen=True)
class Norms:
    """L2 norms of one optimizer. None: not finite, or not there."""

    grad: float | None
    param: float | None
    state: dict[str, float | None]
    state_steps: tuple[int, int] | None
    groups: tuple[GroupNorms, ...]
    nonfinite: tuple[str, ...]
    update: float | None = None
    """Of the last step's change, where the parameters before it were given."""
    largest: dict[str, float] = field(default_factory=dict)
    """Of the state's tensors, as many as were asked for: `exp_avg/layer.weight`."""

    @property
    def update_ratio(self) -> float | None:
        """Norm of the update over that of the parameters."""
        return _ratio(self.update, self.param)


@dataclass
class _Bucket:
    """Tensors whose joint norm is wanted."""

    tensors: list[Tensor] = field(default_factory=list)
    names: list[str] = field(default_factory=list)

    def add(self, name: str, tensor: Tensor) -> None:
        self.tensors.append(_real_values(_local(tensor)))
        self.names.append(name)


@torch.no_grad()
def copy_parameters(optimizer: Optimizer) -> list[Tensor]:
    """Return what `measure` takes as `before`."""
    return [param.detach().clone() for param in _parameters(optimizer)]


@torch.no_grad()
def measure(
    optimizer: Optimizer,
    names: Mapping[int, str] | None = None,
    *,
    before: list[Tensor] | None = None,
    top: int = 0,
) -> Norms:
    """Return the norms of an optimizer's gradients, parameters and state.

    The device is waited for once, whatever there is to read.

    Args:
        optimizer: Any; its state is read by its own key names.
        names: Parameter names by `id`; unnamed ones are called by their place.
        before: The parameters before its last step, in its own order; they are
            overwritten by the update.
        top: How many tensors of the state to name, those with the largest norms.
    """
    buckets: dict[tuple[int, str], _Bucket] = {}
    steps: list[Tensor | float] = []
    for index, group in enumerate(optimizer.param_groups):
        for place, param in enumerate(group["params"]):
            name = (names or {}).get(id(param), f"group{index}.{place}")
            state = optimizer.state.get(param, {})
            _collect(buckets, index, name, param, state)
            # LBFGS counts under another name, and on its first parameter only.
            step = state.get("step", state.get("n_iter"))
            if step is not None:
                steps.append(step)
    if before:
        torch._foreach_sub_(before, _parameters(optimizer))
        change = iter(before)
        for index, group in enumerate(optimizer.param_groups):
            bucket = buckets[index, _UPDATE] = _Bucket()
            for _ in group["params"]:
                bucket.add("update", next(change))
    values, nonfinite, read_steps = _read(buckets, steps)
    groups = tuple(
        _group_norms(index, group, values)
        for index, group in enumerate(optimizer.param_groups)
    )
    totals = _totals(values)
    return Norms(
        update=totals.pop(_UPDATE, None),
        grad=totals.pop("grad", None),
        param=totals.pop("param", None),
        state=totals,
        state_steps=(int(min(read_steps)), int(max(read_steps)))
        if read_steps
        else None,
        groups=groups,
        nonfinite=nonfinite,
        largest=_largest(buckets, values, top),
    )


def _collect(
    buckets: dict[tuple[int, str], _Bucket],
    index: int,
    name: str,
    param: Tensor,
    state: Mapping[str, Any],
) -> None:
    def add(key: str, label: str, tensor: Tensor) -> None:
        buckets.setdefault((index, key), _Bucket()).add(label, tensor)

    add("param", name, param)
    if param.grad is not None and _has_norm(param.grad):
        add("grad", f"{name}.grad", param.grad)
    for key, value in state.items():
        if isinstance(value, Tensor) and key != "step" and _has_norm(value):
            add(key, f"{name}.{key}", value)
        elif isinstance(value, list):
            # LBFGS keeps its history as lists of flat tensors.
            for item in value:
                if isinstance(item, Tensor) and _has_norm(item):
                    add(key, f"{name}.{key}", item)


def _has_norm(tensor: Tensor) -> bool:
    dtype = tensor.dtype
    is_number = dtype.is_floating_point or dtype.is_complex
    return is_number and tensor.layout in (torch.strided, torch.sparse_coo)


def _local(tensor: Tensor) -> Tensor:
    """Return this rank's part of a distributed tensor, and any other as it is."""
    if type(tensor) in _PLAIN:
        return tensor  # hundreds of times a sample, so not asked for an attribute
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def _real_values(tensor: Tensor) -> Tensor:
    """Return a dense, real tensor of the same norm.

    The gradient of a sparse embedding may hold a row several times, as parts of
    a sum. A complex number's square is that of its two parts.
    """
    if tensor.layout is torch.sparse_coo:
        tensor = tensor.coalesce().values()
    if tensor.dtype.is_complex:
        return torch.view_as_real(tensor.resolve_conj())
    return tensor


def _read(
    buckets: Mapping[tuple[int, str], _Bucket], steps: Sequence[Tensor | float]
) -> tuple[dict[tuple[int, str], list[float]], tuple[str, ...], list[float]]:
    """Return each bucket's norms per tensor, what is not finite, and the steps.

    Everything is stacked on one device and read at once. Steps travel as
    float32, which is exact up to 16,777,216 of them.
    """
    flat: list[Tensor] = []
    for bucket in buckets.values():
        flat.extend(_foreach_norm(bucket.tensors))
    num_norms = len(flat)
    device = flat[0].device if flat else None
    on_device = [s for s in steps if isinstance(s, Tensor) and s.device == device]
    # Counters on the CPU beside norms on a GPU are read without waiting for it.
    elsewhere = [float(s) for s in steps if getattr(s, "device", None) != device]
    if on_device:
        flat += torch.stack([step.reshape(()) for step in on_device]).float().unbind()
    if any(norm.device != device for norm in flat):
        flat = [norm.to(device) for norm in flat]
    read = torch.stack(flat).tolist() if flat else []
    values: dict[tuple[int, str], list[float]] = {}
    nonfinite: list[str] = []
    place = 0
    for key, bucket in buckets.items():
        mine = read[place : place + len(bucket.tensors)]
        place += len(mine)
        values[key] = mine
        if key[1] != _UPDATE:
            pairs = zip(bucket.names, mine, strict=True)
            nonfinite += [name for name, value in pairs if value - value != 0]
    return values, tuple(nonfinite[:_MAX_NAMED]), elsewhere + read[num_norms:]


def _foreach_norm(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return 0-d float32 norms; reduced precisions are accumulated in float32."""
    is_double = any(tensor.dtype == torch.float64 for tensor in tensors)
    dtype = torch.float64 if is_double else torch.float32  # torch narrows none
    norms = torch._foreach_norm(list(tensors), 2, dtype=dtype)  # noqa: SLF001 - the only norm of many tensors in one kernel
    return [norm.float() for norm in norms] if is_double else list(norms)


def _ratio(update: float | None, param: float | None) -> float | None:
    return None if update is None or not param else update / param


def _joint(values: Sequence[float]) -> float | None:
    total = sum(value * value for value in values)
    return float(total**0.5) if total - total == 0 else None


def _totals(values: Mapping[tuple[int, str], list[float]]) -> dict[str, float | None]:
    by_key: dict[str, list[float]] = {}
    for (_index, key), mine in values.items():
        by_key.setdefault(key, []).extend(mine)
    return {key: _joint(mine) for key, mine in by_key.items()}


def _largest(
    buckets: Mapping[tuple[int, str], _Bucket],
    values: Mapping[tuple[int, str], list[float]],
    top: int,
) -> dict[str, float]:
    if not top:
        return {}
    found = [
        (norm, f"{key}/{name.removesuffix('.' + key)}")
        for (index, key), bucket in buckets.items()
        for name, norm in zip(bucket.names, values[index, key], strict=True)
        if key not in ("grad", "param", _UPDATE) and norm - norm == 0
    ]
    return {label: norm for norm, label in heapq.nlargest(top, found)}


def _group_norms(
    index: int,
    group: Mapping[str, Any],
    values: Mapping[tuple[int, str], list[float]],
) -> GroupNorms:
    mine = {key: _joint(norms) for (i, key), norms in values.items() if i == index}
    update, param = mine.pop(_UPDATE, None), mine.pop("param", None)
    return GroupNorms(
        lr=float(group["lr"]) if "lr" in group else None,
        num_params=sum(param.numel() for param in group["params"]),
        grad=mine.pop("grad", None),
        param=param,
        update_ratio=_ratio(update, param),
        state=mine,
    )


def _parameters(optimizer: Optimizer) -> list[Tensor]:
    return [
        _local(param) for group in optimizer.param_groups for param in group["params"]
    ]
