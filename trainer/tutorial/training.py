"""A training loop from scratch: everything that one optimizer step is made of.

    for each of `accumulate` batches:   forward in low precision, loss / accumulate,
                                        scale it, backward: gradients add up
    unscale                             gradients are in their own units again
    clip                                their joint norm is at most `clip`
    step, or skip                       if a gradient is not finite
    schedule                            warm-up, then half a cosine down

The order is the point: clipping scaled gradients clips to another norm, and a
schedule that moves on a skipped step drifts away from the optimizer.
"""

import io
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from agent.rundir.atomic import write_atomic

Batch = tuple[Tensor, Tensor]


class Optimizer(Protocol):
    """What the loop needs of an optimizer, from scratch or not."""

    param_groups: list[dict[str, Any]]

    def step(self) -> None:
        """Update the parameters."""

    def zero_grad(self) -> None:
        """Forget the gradients."""

    def state_dict(self) -> dict[str, Any]:
        """Return what has to be saved."""

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Take over what was saved."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How to train."""

    steps: int
    """Optimizer steps in total."""
    lr: float = 1e-3
    """Highest learning rate."""
    warmup_steps: int = 0
    min_lr_frac: float = 0.1
    """Lowest learning rate over highest."""
    accumulate: int = 1
    """Batches per optimizer step."""
    clip: float | None = 1.0
    """Largest joint L2 norm of the gradients; None: no clipping."""
    precision: torch.dtype | None = None
    """Of the forward pass: `torch.bfloat16`, `torch.float16`, or None: full."""


class TrainerFromScratch:
    """Trains a model on batches that a function of the step returns."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        loss_of: Callable[[Tensor, Tensor], Tensor],
        batches_of: Callable[[int], Iterator[Batch]],
        recipe: Recipe,
    ) -> None:
        """Prepare to train.

        Args:
            model: Anything that maps inputs to outputs.
            optimizer: Over the model's parameters.
            loss_of: Mean loss of (outputs, labels).
            batches_of: Batches of a step, from 0. A function of the step and
                not an iterator, so that a resume reads what comes next
                without reading what was before.
            recipe: How to train.
        """
        self.model = model
        self.optimizer = optimizer
        self.recipe = recipe
        self.step = 0
        """Optimizer steps completed, skipped ones included."""
        self.num_skipped = 0
        self._loss_of = loss_of
        self._batches_of = batches_of
        self._device = next(model.parameters()).device
        is_half = recipe.precision is torch.float16
        self._scaler = torch.amp.GradScaler(self._device.type, enabled=is_half)

    def train(self, until: int | None = None) -> float:
        """Train to a step, or to the end; return the last step's mean loss."""
        loss = math.nan
        while self.step < min(self.recipe.steps, until or self.recipe.steps):
            loss = self.train_step()
        return loss

    def train_step(self) -> float:
        """Do one optimizer step; return its mean loss."""
        recipe = self.recipe
        self.model.train()
        self.optimizer.zero_grad()
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(recipe, self.step - self.num_skipped)
        batches = self._batches_of(self.step)
        loss = sum(self._backward(*next(batches)) for _ in range(recipe.accumulate))
        self._scaler.unscale_(self.optimizer)  # type: ignore[arg-type]  # any with groups
        norm = clip_gradients(list(self.model.parameters()), recipe.clip)
        if math.isfinite(norm):
            self._scaler.step(self.optimizer)  # type: ignore[arg-type]  # as above
        else:
            self.num_skipped += 1
        self._scaler.update()
        self.step += 1
        return float(loss)

    def _backward(self, inputs: Tensor, labels: Tensor) -> float:
        """Add a batch's share of the gradient; return its share of the loss."""
        with torch.autocast(
            self._device.type,
            dtype=self.recipe.precision,
            enabled=self.recipe.precision is not None,
        ):
            loss = self._loss_of(self.model(inputs), labels) / self.recipe.accumulate
        self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]  # torch's
        return float(loss.detach())

    def save(self, path: Path) -> None:
        """Write a checkpoint that is whole or not there at all.

        Raises:
            OSError: what was there before still is.
        """
        file = io.BytesIO()
        torch.save(
            {
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "scaler": self._scaler.state_dict(),
                "step": self.step,
                "num_skipped": self.num_skipped,
                "rng": torch.get_rng_state(),
            },
            file,
        )
        write_atomic(path, file.getvalue())

    def load(self, path: Path) -> None:
        """Go on exactly where a checkpoint was saved.

        Nothing in the file is executed.

        Raises:
            OSError, RuntimeError, ValueError: it cannot be read or does not fit.
        """
        saved = torch.load(path, map_location="cpu", weights_only=True)
        self.model.load_state_dict(saved["model"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self._scaler.load_state_dict(saved["scaler"])
        self.step, self.num_skipped = saved["step"], saved["num_skipped"]
        torch.set_rng_state(saved["rng"])


def learning_rate(recipe: Recipe, num_applied: int) -> float:
    """Return the learning rate after so many applied steps.

    Linear from lr / warmup to lr, then half a cosine down to the lowest.
    """
    if num_applied < recipe.warmup_steps:
        return recipe.lr * (num_applied + 1) / recipe.warmup_steps
    length = max(1, recipe.steps - recipe.warmup_steps)
    done = min(1.0, (num_applied - recipe.warmup_steps) / length)
    lowest = recipe.lr * recipe.min_lr_frac
    return lowest + (recipe.lr - lowest) * (1 + math.cos(math.pi * done)) / 2


@torch.no_grad()
def clip_gradients(parameters: list[Tensor], largest: float | None) -> float:
    """Scale all gradients together so that their joint norm is at most `largest`.

    Together, because scaling each by itself would change the direction.

    Returns:
        The norm before; not finite if any gradient is not.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = math.sqrt(sum(float(g.double().square().sum()) for g in gradients))
    if largest is not None and norm > largest:
        for gradient in gradients:
            gradient.mul_(largest / norm)
    return norm
