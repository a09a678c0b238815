"""Sample an optimizer's norms at its own step.

The probe hangs on the optimizer's own step hooks, so a trainer adds one line.
"""

import time
from collections.abc import Callable, Iterable

import torch
from torch import Tensor
from torch.optim import Optimizer

from agent.emitter import Emitter
from agent.probes.optimizer import copy_parameters, measure
from agent.rundir.events import OptimizerNorms

_MAX_REASON = 200
"""Characters."""
_Hook = Callable[..., None]


class OptimizerProbe:
    """Measures one optimizer every so many of its steps and writes an event."""

    def __init__(
        self,
        emitter: Emitter,
        optimizer: Optimizer,
        named_parameters: Iterable[tuple[str, Tensor]],
        *,
        every: int = 200,
    ) -> None:
        """Hang on the optimizer's step.

        Args:
            emitter: Gets the events.
            optimizer: The one to measure.
            named_parameters: Names for what is not finite.
            every: Of its steps, counted from the first; 0: none is measured.
        """
        self._emitter = emitter
        self._names = {id(param): name for name, param in named_parameters}
        self._every = every
        self._num_steps = 0
        self._before: list[Tensor] | None = None
        # A compiled step is traced through its hooks: what they call would be
        # compiled with it, and anew whenever they count.
        self._hooks = [
            optimizer.register_step_pre_hook(_eager(self._before_step)),
            optimizer.register_step_post_hook(_eager(self._after_step)),
        ]

    def close(self) -> None:
        """Leave the optimizer, which may outlive the agent."""
        for hook in self._hooks:
            hook.remove()

    def _before_step(self, optimizer: Optimizer, *_: object) -> None:
        if self._emitter.is_off or not self._every or self._num_steps % self._every:
            return
        if _is_recorded():
            return
        try:
            self._before = copy_parameters(optimizer)
        except Exception as error:  # noqa: BLE001 - e.g. no memory is left for a copy
            self._drop(error)

    def _after_step(self, optimizer: Optimizer, *_: object) -> None:
        self._num_steps += 1
        before, self._before = self._before, None
        if before is None:
            return
        try:
            began = time.perf_counter_ns()
            norms = measure(optimizer, self._names, before=before)
            self._emitter.emit(
                OptimizerNorms,
                # The hook runs inside the step that `step_done` will count.
                step=(self._emitter.step or 0) + 1,
                optimizer=type(optimizer).__name__,
                grad=norms.grad,
                param=norms.param,
                update_ratio=norms.update_ratio,
                state=norms.state,
                state_steps=norms.state_steps,
                groups=norms.groups,
                nonfinite=norms.nonfinite,
                probe_ns=time.perf_counter_ns() - began,
            )
        except Exception as error:  # noqa: BLE001 - training must not see it
            self._drop(error)

    def _drop(self, error: Exception) -> None:
        self._emitter.drop(f"optimizer probe: {in_brief(error)}")


def _eager(hook: _Hook) -> _Hook:
    disabled: _Hook = torch.compiler.disable(hook)  # type: ignore[no-untyped-call]  # torch has no type for it
    return disabled


def _is_recorded() -> bool:
    """Whether a CUDA graph records this step: reading a norm would end that."""
    cuda = torch.cuda
    if not cuda.is_initialized():  # type: ignore[no-untyped-call]  # torch has no type for it
        return False
    return bool(cuda.is_current_stream_capturing())


def in_brief(error: Exception) -> str:
    """Return what torch says in its first line; pages of its kernels may follow."""
    first = str(error).partition("\n")[0]
    return f"{type(error).__name__}: {first[:_MAX_REASON]}"
