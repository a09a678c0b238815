"""Which samples each rank reads in each step, as a pure function of a position.

A position is an epoch and the number of samples, over all ranks, that completed
steps of that epoch consumed. From it the rest of the epoch follows by index, on
any number of ranks, without reading what lies before: that is what makes a
resume in the middle of an epoch exact.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch


class MicroBatch(NamedTuple):
    """One forward pass of one rank."""

    indices: tuple[int, ...]
    """Never empty: a rank that is left without a sample repeats one."""
    num_samples: int
    """How many of `indices` count; 0 where the rank only keeps in step."""


class StepPlan(NamedTuple):
    """One optimizer step of one rank."""

    micro_batches: tuple[MicroBatch, ...]
    num_samples: int
    """Over all ranks."""
    end: int
    """Samples of this epoch that are consumed once the step is complete."""


class BatchPlan(NamedTuple):
    """How a data set is dealt out."""

    num_samples: int
    """Of the data set."""
    world_size: int
    rank: int
    batch_size: int
    """Samples per rank and forward pass."""
    accumulate: int = 1
    seed: int = 0
    shuffle: bool = True

    @property
    def step_samples(self) -> int:
        """Samples of a full step, over all ranks."""
        return self.batch_size * self.world_size * self.accumulate

    @property
    def steps_per_epoch(self) -> int:
        """Steps of a whole epoch; the last one may be smaller."""
        return -(-self.num_samples // self.step_samples)

    def order(self, epoch: int) -> list[int]:
        """Return the epoch's order of samples, equal on all ranks."""
        if not self.shuffle:
            return list(range(self.num_samples))
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        order: list[int] = torch.randperm(
            self.num_samples, generator=generator
        ).tolist()
        return order

    def steps(self, epoch: int, offset: int = 0) -> Iterator[StepPlan]:
        """Yield the steps of an epoch from a position on.

        Args:
            epoch: From 0; chooses the order.
            offset: Samples of the epoch that are consumed already, over all
                ranks, by whatever number of them.
        """
        order = self.order(epoch)
        while offset < len(order):
            samples = order[offset : offset + self.step_samples]
            offset += len(samples)
            yield StepPlan(tuple(self._micro_batches(samples)), len(samples), offset)

    def _micro_batches(self, samples: list[int]) -> Iterator[MicroBatch]:
        """Deal out one step; all ranks get the same number of forward passes."""
        per_pass = self.batch_size * self.world_size
        for start in range(0, len(samples), per_pass):
            dealt = samples[start : start + per_pass]
            mine = dealt[self.rank :: self.world_size]
            yield MicroBatch(tuple(mine or dealt[:1]), len(mine))
