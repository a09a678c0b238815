"""Compare the parts of a saved training state with what its manifest says.

Optimizer, random numbers, averaged weights and progress: each is promised by
the manifest, and a resume that misses one goes on as another run.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from agent.rundir.layout import STATE_NAME
from agent.rundir.manifest import Manifest, OptimizerSchema
from agent.rundir.verify.outcome import Outcome
from agent.rundir.verify.text import visible
from agent.rundir.verify.verdict import State
from trainer.checkpoint.describe import PER_ELEMENT


def check_parts(manifest: Manifest, state: Mapping[str, Any], outcome: Outcome) -> None:
    """Add a `damaged` finding for every promise that the state breaks.

    Args:
        manifest: of the checkpoint.
        state: as loaded from its `state.pt`.
        outcome: takes the findings.
    """
    _check_presence(manifest, state, outcome)
    progress = state.get("progress")
    if isinstance(progress, Mapping) and manifest.step is not None:
        _require(manifest.step, progress.get("step"), "the completed steps", outcome)
    optimizer = state.get("optimizer")
    if manifest.optimizer is None:
        return
    if isinstance(optimizer, Mapping) and {"state", "param_groups"} <= set(optimizer):
        _check_optimizer(manifest, manifest.optimizer, optimizer, outcome)
    else:
        _report("the optimizer's state is missing", outcome)


def _check_presence(
    manifest: Manifest, state: Mapping[str, Any], outcome: Outcome
) -> None:
    for is_told, part, what in (
        (manifest.has_rng, "rng", "state of the random number generators"),
        (manifest.has_ema, "average", "average of the weights"),
    ):
        if is_told and not state.get(part):
            _report(f"the {what} is missing (`{part}`)", outcome)


def _check_optimizer(
    manifest: Manifest,
    schema: OptimizerSchema,
    saved: Mapping[str, Any],
    outcome: Outcome,
) -> None:
    num_params = sum(len(group["params"]) for group in saved["param_groups"])
    _require(len(schema.param_names), num_params, "the optimizer's parameters", outcome)
    steps = dict(_iter_steps(saved["state"]))
    _require(schema.step, max(steps.values(), default=None), "its steps", outcome)
    for index, step in steps.items():
        if manifest.step is not None and step > manifest.step:
            _report(
                f"the step counter of `{_name(schema, index)}` is {step}, "
                f"the checkpoint completed {manifest.step}",
                outcome,
            )
    for index, key, moment in _iter_moments(saved["state"]):
        shape = schema.param_shapes[index] if index < len(schema.param_shapes) else None
        if tuple(moment.shape) != shape:
            _report(
                f"`{visible(key)}` of `{_name(schema, index)}` does not have its "
                "parameter's shape",
                outcome,
                differs=(str(shape), str(tuple(moment.shape))),
            )


def _iter_steps(states: Mapping[int, Any]) -> Iterator[tuple[int, int]]:
    for index, values in states.items():
        if "step" in values:
            yield index, int(values["step"])


def _iter_moments(states: Mapping[int, Any]) -> Iterator[tuple[int, str, Tensor]]:
    for index, values in states.items():
        for key, value in values.items():
            if key in PER_ELEMENT and isinstance(value, Tensor) and value.dim():
                yield index, key, value


def _name(schema: OptimizerSchema, index: int) -> str:
    known = index < len(schema.param_names)
    return visible(schema.param_names[index]) if known else f"parameter {index}"


def _require(told: int | None, found: object, what: str, outcome: Outcome) -> None:
    if told != found:
        _report(
            f"{what} are not as many as the manifest tells",
            outcome,
            differs=(str(told), str(found)),
        )


def _report(
    message: str, outcome: Outcome, *, differs: tuple[str, str] | None = None
) -> None:
    outcome.add(State.DAMAGED, STATE_NAME, message, differs=differs)
