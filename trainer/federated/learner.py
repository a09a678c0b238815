"""Train one client's model on its own examples for one round.

What a round reads follows from seed, client and round alone, so that training
it again from the same state gives the same bits.
"""

import hashlib
import itertools
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from trainer.data.examples import Examples
from trainer.federated.aggregate import add_proximal_gradient
from trainer.federated.config import FederatedConfig
from trainer.federated.messages import Report
from trainer.federated.problem import (
    ClientData,
    Shape,
    check_fits,
    loss_of,
    make_model,
    measure,
)
from trainer.optim.factory import configure_optimizer

_MANY = 1 << 40
_SMALLEST_BATCH = 2
"""Batch normalisation has little to go by in one example: a last one is left out."""


@dataclass(frozen=True)
class StepResult:
    """One local optimizer step, for telemetry."""

    loss: float
    num_examples: int
    step_ns: int


class LocalTrainer(Protocol):
    """What a federated client needs of a trainer.

    Its model is looked for at `ctx.model` and `model`, an optimizer beside it.
    """

    def train(
        self,
        round_num: int,
        *,
        is_cancelled: Callable[[], bool],
        on_step: Callable[[StepResult], None],
    ) -> Report | None:
        """Train the model for one round; None: it was cancelled.

        The model holds the global parameters when this is called, and what is
        to be sent when it returns.
        """
        ...


class Learner:
    """The trainer of this project's own problems."""

    def __init__(
        self, config: FederatedConfig, shape: Shape, key: str, data: ClientData
    ) -> None:
        """Make model and optimizer.

        Raises:
            RunDirError: the data does not fit the model.
        """
        for examples in filter(None, (data.training, data.held_out)):
            check_fits(examples, shape, f"examples of `{key}`")
        self.model = make_model(shape, config.seed)
        self.optimizer = configure_optimizer(
            self.model,
            config.optimizer,
            config.lr,
            config.weight_decay,
            momentum=config.momentum,
        )
        self._config = config
        self._key = key
        self._data = data

    @property
    def seed(self) -> int:
        """What the order of examples follows from."""
        return self._config.seed

    def train(
        self,
        round_num: int,
        *,
        is_cancelled: Callable[[], bool],
        on_step: Callable[[StepResult], None],
    ) -> Report | None:
        """Train for so many epochs or steps as configured; None: cancelled."""
        began_ns = time.monotonic_ns()
        results: list[StepResult] = []
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(round_seed(self.seed, self._key, round_num))
            reference = self._reference()
            self.model.train()
            for index in self._batches():
                if is_cancelled():
                    return None
                result = self._step(self._data.training.take(index), reference)
                on_step(result)
                results.append(result)
        return Report(
            num_examples=len(self._data.training),
            num_steps=len(results),
            loss=_mean_loss(results),
            accuracy_frac=self._accuracy(),
            compute_ns=time.monotonic_ns() - began_ns,
        )

    def _reference(self) -> list[tuple[Tensor, Tensor]]:
        """Return parameters beside their global values, where FedProx needs them."""
        if not self._config.proximal:
            return []
        return [(param, param.detach().clone()) for param in self.model.parameters()]

    def _step(
        self, batch: Examples, reference: list[tuple[Tensor, Tensor]]
    ) -> StepResult:
        began_ns = time.monotonic_ns()
        loss = loss_of(self.model(batch.inputs), batch.labels)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        add_proximal_gradient(reference, self._config.proximal)
        self.optimizer.step()
        return StepResult(
            float(loss.detach()), len(batch), time.monotonic_ns() - began_ns
        )

    def _batches(self) -> Iterator[Tensor]:
        """Yield positions; every pass has its own order, drawn from torch's seed."""
        num, steps = len(self._data.training), self._config.local_steps
        num_passes = _MANY if steps else self._config.local_epochs
        batches = (
            batch
            for _ in range(num_passes)
            for batch in torch.split(torch.randperm(num), self._config.batch_size)
            if len(batch) >= min(num, _SMALLEST_BATCH)
        )
        return itertools.islice(batches, steps or None)

    def _accuracy(self) -> float | None:
        if self._data.held_out is None:
            return None
        return measure(self.model, self._data.held_out)[1]


def round_seed(seed: int, key: str, round_num: int) -> int:
    """Return what the order of a client's examples in a round follows from."""
    digest = hashlib.sha256(f"{seed}/{key}/{round_num}".encode()).digest()
    return int.from_bytes(digest[:7])


def _mean_loss(results: list[StepResult]) -> float | None:
    """Return the mean over the round's examples; None: not finite, or no step."""
    total = sum(result.loss * result.num_examples for result in results)
    num = sum(result.num_examples for result in results)
    return total / num if num and math.isfinite(total) else None
