"""Batches by position, from any data set or from a user's own DataLoader.

The loader's sampler is replaced by the plan's; data set, collation, workers and
batch size stay. Iterating draws nothing from torch's global generator, which
belongs to the model: a loader of its own seed does.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Generator
from torch.utils.data import (
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
)

from trainer.data.plan import BatchPlan, StepPlan
from trainer.distributed.world import World


@dataclass(frozen=True)
class PlannedBatches:
    """A data set and the plan by which this rank reads it."""

    loader: DataLoader[Any]
    """The model for the loaders that read it: only its sampler is not used."""
    plan: BatchPlan

    def epoch(
        self, epoch: int, offset: int = 0
    ) -> tuple[list[StepPlan], Iterator[Any]]:
        """Return the steps from a position on, and an iterator over their batches.

        The iterator yields one batch per forward pass, across steps.
        """
        plans = list(self.plan.steps(epoch, offset))
        return plans, iter(self._loader(epoch, plans))

    def first_batch(self) -> Any:  # noqa: ANN401 - what the user's collation makes
        """Return the micro-batch that an epoch would begin with."""
        first = next(self.plan.steps(0))
        return next(iter(self._loader(0, [first])))

    def _loader(self, epoch: int, plans: list[StepPlan]) -> DataLoader[Any]:
        indices = [list(m.indices) for step in plans for m in step.micro_batches]
        seed = (self.plan.seed, epoch, self.plan.rank)
        workers: dict[str, Any] = {}
        if self.loader.num_workers:
            workers = {
                "multiprocessing_context": self.loader.multiprocessing_context,
                "prefetch_factor": self.loader.prefetch_factor,
            }
        return DataLoader(
            self.loader.dataset,
            batch_sampler=indices,
            num_workers=self.loader.num_workers,
            collate_fn=self.loader.collate_fn,
            pin_memory=self.loader.pin_memory,
            timeout=self.loader.timeout,
            worker_init_fn=self.loader.worker_init_fn,
            generator=Generator().manual_seed(hash(seed) % 2**63),
            **workers,
        )


def planned(
    data: DataLoader[Any],
    world: World,
    *,
    accumulate: int = 1,
    seed: int = 0,
    shuffle: bool | None = None,
) -> PlannedBatches:
    """Return a loader's data by position.

    Args:
        data: Its data set needs a length; its sampler only tells whether the
            order is shuffled.
        world: Deals the samples out; the loader's batch size is per rank.
        accumulate: Forward passes per step.
        seed: Of the order.
        shuffle: None: as the loader's own sampler does.

    Raises:
        TypeError: as `num_samples`; or the loader makes its own batches.
    """
    total = num_samples(data)
    if data.batch_size is None:
        raise TypeError("a loader needs a batch_size, so that ranks can share it out")
    if shuffle is None:
        shuffle = _is_shuffled(data)
    plan = BatchPlan(
        num_samples=total,
        world_size=world.world_size,
        rank=world.rank,
        batch_size=data.batch_size,
        accumulate=accumulate,
        seed=seed,
        shuffle=shuffle,
    )
    return PlannedBatches(data, plan)


def num_samples(data: DataLoader[Any]) -> int:
    """Return how many samples an epoch has: all of the data set.

    Raises:
        TypeError: the data set can only be iterated over, so no position in it
            can be found again; or a sampler picks some samples, or some more
            often, which the plan would not do.
    """
    dataset: Dataset[Any] = data.dataset
    if isinstance(dataset, IterableDataset):
        raise TypeError("an IterableDataset has no positions to resume at")
    total = len(dataset)  # type: ignore[arg-type]  # Dataset declares no length
    sampler = data.sampler
    takes_all = isinstance(sampler, SequentialSampler | DistributedSampler)
    if isinstance(sampler, RandomSampler):
        takes_all = not sampler.replacement and sampler.num_samples == total
    if not takes_all:
        raise TypeError(
            f"a {type(sampler).__name__} picks samples, and would not be used: give "
            "the loader a data set of what is to be seen, e.g. a Subset"
        )
    return total


def _is_shuffled(data: DataLoader[Any]) -> bool:
    if isinstance(data.sampler, DistributedSampler):
        return bool(data.sampler.shuffle)
    return not isinstance(data.sampler, SequentialSampler)
