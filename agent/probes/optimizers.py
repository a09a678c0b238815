"""The optimizers of one process: those that are measured, and those that are changed.

torch is loaded with the first of them: to attach, none is needed.
"""

from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from agent.emitter import Emitter

if TYPE_CHECKING:
    from torch import Tensor
    from torch.optim import Optimizer

    from agent.probes.optimizer_watch import OptimizerProbe


class Optimizers:
    """What the agent knows of them."""

    def __init__(self, emitter: Emitter) -> None:
        """Make it; none is known yet."""
        self._emitter = emitter
        self._names: dict[int, str] = {}
        """Of watched parameters, by `id`."""
        self._probes: list[OptimizerProbe] = []

    def watch(
        self,
        optimizer: "Optimizer",
        named_parameters: "Iterable[tuple[str, Tensor]]",
        *,
        every: int,
    ) -> None:
        """Measure norms at the optimizer's own step, every so many; 0: at none."""
        if self._emitter.is_off:
            return
        from agent.probes.optimizer_watch import OptimizerProbe  # noqa: PLC0415 - see above

        named = list(named_parameters)
        self._names |= {id(param): name for name, param in named}
        try:
            probe = OptimizerProbe(self._emitter, optimizer, named, every=every)
        except AttributeError as error:  # what wraps an optimizer may have no hooks
            self._emitter.drop(f"optimizer probe: {error}")
        else:
            self._probes.append(probe)

    def reset(
        self,
        optimizer: "Optimizer | None",
        reason: str,
        top: int,
        cause: dict[str, Any],
    ) -> None:
        """Clear a state, and tell norms before and after."""
        from agent.probes.optimizer_reset import Detail, ResetCause, clear_state  # noqa: PLC0415 - see above

        detail, why = Detail(self._names, top), ResetCause(reason, **cause)
        clear_state(self._emitter, optimizer, why, detail)

    def changing(
        self, optimizer: "Optimizer", reason: str, top: int, cause: dict[str, Any]
    ) -> AbstractContextManager[None]:
        """Surround what changes a state, and tell norms before and after."""
        from agent.probes.optimizer_reset import Detail, ResetCause, changed_state  # noqa: PLC0415 - see above

        detail, why = Detail(self._names, top), ResetCause(reason, **cause)
        return changed_state(self._emitter, optimizer, why, detail)

    def close(self) -> None:
        """Leave the optimizers, which may outlive the agent."""
        for probe in self._probes:
            probe.close()
