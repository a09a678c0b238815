"""What an optimizer step leaves behind: losses, norms, and what was not finite.

A step's waits travel in its own line, which costs a sixth of a line each.
"""

import msgspec

from agent.rundir.vocabulary.event import Event


class Wait(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One wait at a barrier that did not block: part of a step's line."""

    name: str
    index: int
    """How often this rank had arrived at the barrier of this name before."""
    arrived_mono_ns: int
    wait_ns: int
    """Arrival to release. The straggler waits least."""


class StepDone(Event, frozen=True, tag_field="kind", tag="step_done"):
    """An optimizer step is complete, or was skipped for a non-finite gradient."""

    loss: float | None = None
    """Mean over all ranks, where the trainer reduces it; else this rank's."""
    lr: float | None = None
    grad_norm: float | None = None
    num_tokens: int | None = None
    """Tokens that all ranks consumed in this step."""
    step_ns: int | None = None
    data_ns: int | None = None
    """Waiting for the next batch."""
    is_skipped: bool = False
    nonfinite: str | None = None
    """What was not finite: `loss`, or a tensor's name."""
    waits: tuple[Wait, ...] = ()
    agent_ns: int | None = None
    """What the agent itself cost since the step before."""


class EvalDone(Event, frozen=True, tag_field="kind", tag="eval_done"):
    """Held-out loss, reduced over ranks."""

    loss: float | None
    num_tokens: int | None = None
    eval_ns: int | None = None
    is_best: bool = False
    accuracy_frac: float | None = None
    buffers: str | None = None
    """Whose normalisation statistics a federation's model was measured with:
    `calibration` (the server's own examples), `average`, `initial`, or `none` where
    it has no such; None: those of the model that was trained."""


class GroupNorms(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Norms of one parameter group."""

    lr: float | None = None
    num_params: int = 0
    grad: float | None = None
    param: float | None = None
    update_ratio: float | None = None
    """As of all groups together."""
    state: dict[str, float | None] = msgspec.field(default_factory=dict)


class OptimizerNorms(Event, frozen=True, tag_field="kind", tag="optimizer_norms"):
    """L2 norms over every local parameter, accumulated in float32."""

    optimizer: str
    grad: float | None = None
    param: float | None = None
    update_ratio: float | None = None
    """Norm of the last update over the norm of the parameters."""
    state: dict[str, float | None] = msgspec.field(default_factory=dict)
    """By the optimizer's own name: `exp_avg`, `exp_avg_sq`, `momentum_buffer` …"""
    state_steps: tuple[int, int] | None = None
    """Least and greatest step counter over the parameters."""
    groups: tuple[GroupNorms, ...] = ()
    nonfinite: tuple[str, ...] = ()
    """Names of tensors whose norm is not finite."""
    probe_ns: int | None = None


class OptimizerReset(Event, frozen=True, tag_field="kind", tag="optimizer_reset"):
    """The optimizer's state was cleared; its hyperparameters were kept."""

    optimizer: str
    reason: str
    before: dict[str, float | None]
    """Norms by the optimizer's own names; `exp_avg/layer.weight` of single tensors."""
    after: dict[str, float | None]
    rounds_missed: int | None = None
    model_digest: str | None = None
    data_position: int | None = None
    seed: int | None = None


class NonfiniteFound(Event, frozen=True, tag_field="kind", tag="nonfinite_found"):
    """A NaN or an infinity, and in which tensor."""

    tensor: str
    where: str
    """`loss` or `gradient`; `optimizer_norms` names parameters and state."""
