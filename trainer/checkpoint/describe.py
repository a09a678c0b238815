"""What the manifest tells about a saved state, without its bytes.

The optimizer's schema is checked before its state is loaded: torch itself takes
moments of the wrong shape and reordered parameters without a word.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from agent.rundir.errors import RunDirError
from agent.rundir.manifest import Manifest, OptimizerSchema, TensorEntry

PER_ELEMENT = frozenset(
    {
        *("exp_avg", "exp_avg_sq", "max_exp_avg_sq", "exp_inf", "momentum_buffer"),
        *("square_avg", "grad_avg", "sum", "acc_delta", "ax", "prev", "step_size"),
    }
)
"""State of torch's optimizers that has one number per element of its parameter;
others, e.g. Adafactor's `row_var`, have shapes that only they know."""


class OptimizerMismatchError(RunDirError):
    """A saved optimizer state belongs to another optimizer or model."""


def describe_tensors(state: dict[str, Any], file: str) -> tuple[TensorEntry, ...]:
    """Return every tensor of a state, with the record that will hold it.

    `torch.save` numbers storages in the order in which it meets them; walking
    the state in the same order gives the same numbers.
    """
    records: dict[int, str] = {}
    found = []
    for name, tensor in _walk(state, ""):
        storage = tensor.untyped_storage()._cdata  # noqa: SLF001 - torch.save's own key
        record = records.setdefault(storage, f"data/{len(records)}")
        found.append(
            TensorEntry(
                name=name,
                dtype=str(tensor.dtype).removeprefix("torch."),
                shape=tuple(tensor.shape),
                file=file,
                record=record,
            )
        )
    return tuple(found)


def describe_optimizer(optimizer: Optimizer, model: nn.Module) -> OptimizerSchema:
    """Return what a saved state of this optimizer fits.

    Args:
        optimizer: Over parameters of `model`.
        model: Unwrapped; names the parameters.
    """
    names = {id(p): name for name, p in model.named_parameters()}
    ordered = [p for group in optimizer.param_groups for p in group["params"]]
    keys = {key for state in optimizer.state.values() for key in state}
    steps = _step_counters(optimizer.state_dict())
    return OptimizerSchema(
        kind=type(optimizer).__name__,
        param_names=tuple(names.get(id(p), "?") for p in ordered),
        param_shapes=tuple(tuple(p.shape) for p in ordered),
        state_keys=tuple(sorted(keys)),
        step=max(steps.values(), default=None),
    )


def check_optimizer(
    manifest: Manifest, saved: dict[str, Any], optimizer: Optimizer, model: nn.Module
) -> None:
    """Refuse a saved optimizer state that does not fit.

    Args:
        manifest: Of the checkpoint; its digest has been checked.
        saved: The optimizer's part of the saved state.
        optimizer: That is to take it.
        model: Unwrapped.

    Raises:
        OptimizerMismatchError: the first thing that differs.
    """
    theirs, ours = manifest.optimizer, describe_optimizer(optimizer, model)
    if theirs is None:
        raise _mismatch("the checkpoint does not describe its optimizer")
    if theirs.kind != ours.kind:
        raise _mismatch(f"saved by `{theirs.kind}`, to be loaded by `{ours.kind}`")
    _check_names(theirs, ours)
    _check_shapes(theirs, ours)
    _check_groups(saved, optimizer)
    _check_moments(saved, theirs, optimizer)
    _check_steps(saved, manifest, theirs)


def _check_names(theirs: OptimizerSchema, ours: OptimizerSchema) -> None:
    pairs = zip(theirs.param_names, ours.param_names, strict=False)
    for index, (saved, own) in enumerate(pairs):
        if saved != own:
            raise _mismatch(f"parameter {index} was `{saved}`, now it is `{own}`")
    if len(theirs.param_names) != len(ours.param_names):
        raise _mismatch(
            f"saved with {len(theirs.param_names)} parameters, "
            f"now there are {len(ours.param_names)}"
        )


def _check_shapes(theirs: OptimizerSchema, ours: OptimizerSchema) -> None:
    for name, saved, own in zip(
        ours.param_names, theirs.param_shapes, ours.param_shapes, strict=True
    ):
        if tuple(saved) != tuple(own):
            raise _mismatch(f"`{name}` had shape {list(saved)}, now it has {list(own)}")


def _check_groups(saved: dict[str, Any], optimizer: Optimizer) -> None:
    found, own = (
        [len(group["params"]) for group in groups]
        for groups in (saved["param_groups"], optimizer.param_groups)
    )
    if found != own:
        raise _mismatch(f"its groups had {found} parameters, now they have {own}")


def _check_moments(
    saved: dict[str, Any], theirs: OptimizerSchema, optimizer: Optimizer
) -> None:
    ordered = [p for group in optimizer.param_groups for p in group["params"]]
    for index, state in saved["state"].items():
        parameter, name = ordered[index], theirs.param_names[index]
        for key, value in state.items():
            is_scalar = not isinstance(value, Tensor) or value.dim() == 0
            if is_scalar or key not in PER_ELEMENT:
                continue
            if value.shape != parameter.shape:
                raise _mismatch(
                    f"`{key}` of `{name}` has shape {list(value.shape)}, "
                    f"its parameter has {list(parameter.shape)}"
                )
            if value.dtype != parameter.dtype:
                raise _mismatch(
                    f"`{key}` of `{name}` is {value.dtype}, "
                    f"its parameter is {parameter.dtype}"
                )


def _check_steps(
    saved: dict[str, Any], manifest: Manifest, theirs: OptimizerSchema
) -> None:
    for index, step in _step_counters(saved).items():
        name = theirs.param_names[index]
        if manifest.step is not None and step > manifest.step:
            raise _mismatch(
                f"the step counter of `{name}` is {step}, "
                f"the checkpoint completed {manifest.step} steps"
            )


def _step_counters(saved: dict[str, Any]) -> dict[int, int]:
    """Return each parameter's own step counter, for optimizers that keep one."""
    return {
        index: int(state["step"])
        for index, state in saved["state"].items()
        if "step" in state
    }


def _mismatch(what: str) -> OptimizerMismatchError:
    return OptimizerMismatchError(
        f"the saved optimizer state does not fit: {what}",
        hint="the same command with --allow-new-optimizer starts with a fresh one",
    )


def _walk(value: Any, path: str) -> Iterator[tuple[str, Tensor]]:  # noqa: ANN401 - any saved type
    if isinstance(value, Tensor):
        yield path, value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _walk(item, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _walk(item, f"{path}.{index}")


def num_tensor_bytes(state: dict[str, Any]) -> int:
    """Return the bytes of a state's distinct storages: about what it takes on disk."""
    sizes: dict[int, int] = {}
    for _, tensor in _walk(state, ""):
        storage: torch.UntypedStorage = tensor.untyped_storage()
        sizes[storage._cdata] = storage.nbytes()  # noqa: SLF001 - torch.save's own key
    return sum(sizes.values())
