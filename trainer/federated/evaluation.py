"""How good a global model is, and with whose normalisation statistics.

Clients keep theirs, so an averaged model has none that fit it: the server takes
them from examples of its own, that it neither trains nor measures on.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase as Normalisation

from trainer.chunks.snapshot import model_tensors
from trainer.federated.config import FederatedConfig
from trainer.federated.problem import ServerData, measure


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The global model on held-out examples."""

    loss: float | None
    accuracy_frac: float | None
    buffers: str
    """Whose normalisation statistics it used: `calibration`, `average`, `initial`,
    or `none` where the model has no such."""
    eval_ns: int


class Evaluation:
    """Measures global models, one after the other."""

    def __init__(
        self, model: nn.Module, data: ServerData, config: FederatedConfig
    ) -> None:
        """Take a model to measure with; its tensors are overwritten."""
        self._model = model
        self._data = data
        self._averages_buffers = config.average_buffers

    def of(
        self, tensors: Mapping[str, Tensor]
    ) -> tuple[dict[str, Tensor], Measured | None]:
        """Return the tensors with buffers that fit them, and how good they are.

        Copies; None: there are no held-out examples.
        """
        began_ns = time.monotonic_ns()
        own = model_tensors(self._model).tensors
        with torch.no_grad():
            for name, mine in own.items():
                mine.copy_(tensors[name])
        buffers = self._fit_buffers()
        fitted = {name: tensor.detach().clone() for name, tensor in own.items()}
        if self._data.held_out is None:
            return fitted, None
        loss, accuracy = measure(self._model, self._data.held_out)
        return fitted, Measured(
            loss=loss if loss - loss == 0 else None,
            accuracy_frac=accuracy,
            buffers=buffers,
            eval_ns=time.monotonic_ns() - began_ns,
        )

    def _fit_buffers(self) -> str:
        """Take normalisation statistics from the calibration examples."""
        norms = [m for m in self._model.modules() if isinstance(m, Normalisation)]
        if not norms:
            return "none"
        if self._averages_buffers:
            return "average"
        if self._data.calibration is None:
            return "initial"
        for norm in norms:
            norm.reset_running_stats()
            # A mean over everything seen, not a moving one.
            norm.momentum = None
        self._model.train()
        with torch.no_grad():
            self._model(self._data.calibration.inputs)
        self._model.eval()
        return "calibration"
