"""The round that a client is training, on its worker thread.

There is one at a time. It goes on while the connection is gone; whoever asks
for another round cancels it first. What it leaves stays until the next, so
that a server that asks again gets the same update.
"""

import asyncio
import functools
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import msgspec

from trainer.federated.arrival import Whole
from trainer.federated.messages import Task
from trainer.federated.part import Part
from trainer.federated.workbench import Update
from trainer.federated.worker import Worker


@dataclass(frozen=True)
class Asked:
    """A round to train, with the model to train it on."""

    task: Task
    whole: Whole
    restored_round: int | None
    """Last round that an operator restored; None: none."""
    asked_ns: int
    """When the server asked; monotonic."""


@dataclass(frozen=True)
class _Job:
    task: Task
    cancelled: threading.Event
    done: asyncio.Task[None]


class Training:
    """Trains rounds, one at a time."""

    def __init__(self, worker: Worker, on_update: Callable[[Update], None]) -> None:
        """Begin with nothing to do. Call it inside the loop.

        Args:
            worker: The thread that owns the model.
            on_update: Is told of every round that was trained to its end.
        """
        self.failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Gets the exception that local training ended with."""
        self.update: Update | None = None
        """What the last round left; None: there was none in this attempt."""
        self._worker = worker
        self._on_update = on_update
        self._job: _Job | None = None

    @property
    def task(self) -> Task | None:
        """What is being trained; None: nothing is."""
        return self._job.task if self._job else None

    def update_for(self, task: Task) -> Update | None:
        """Return what was trained for exactly this; None: it was not."""
        update = self.update
        return update if update and _identity(update) == _identity(task) else None

    def is_on(self, task: Task) -> bool:
        """Whether exactly this is being trained."""
        return self._job is not None and _identity(self._job.task) == _identity(task)

    def start(self, part: Part, asked: Asked) -> None:
        """Begin a round; nothing is being trained."""
        assert self._job is None, "a round is being trained"
        cancelled = threading.Event()
        training = asyncio.create_task(self._train(part, asked, cancelled))
        self._job = _Job(asked.task, cancelled, training)

    async def cancel(self) -> None:
        """Stop what is being trained, and wait until it has stopped."""
        job = self._job
        if job is not None:
            job.cancelled.set()
            await asyncio.gather(job.done, return_exceptions=True)

    async def _train(
        self, part: Part, asked: Asked, cancelled: threading.Event
    ) -> None:
        """Train a round and offer it; an error ends the client, not only this."""
        part.events.training(asked.task.round_num)
        fetch_ns = time.monotonic_ns() - asked.asked_ns
        try:
            update = await self._worker.run(
                functools.partial(_train_here, part, asked, cancelled)
            )
        except Exception as error:  # noqa: BLE001 - it is raised again by whoever waits for `failure`
            if not self.failure.done():
                self.failure.set_exception(error)
            return
        finally:
            self._job = None
            part.events.waiting()
        if update is None or cancelled.is_set():
            return
        report = msgspec.structs.replace(update.report, fetch_ns=fetch_ns)
        self.update = replace(update, report=report)
        self._on_update(self.update)


def _train_here(part: Part, asked: Asked, cancelled: threading.Event) -> Update | None:
    """Do the part of a round that runs on the worker thread."""
    task, workbench, events = asked.task, part.workbench, part.events
    reset = workbench.prepare(task.round_num, asked.whole.tensors, asked.restored_round)
    if reset is not None:
        events.reset(reset, asked.whole.digest, task.round_num)
    update = workbench.train(
        task.round_num,
        task.attempt,
        task.base_digest,
        is_cancelled=cancelled.is_set,
        on_step=lambda result: events.step_done(workbench.local.num_steps, result),
    )
    if update is not None and update.stored is not None:
        events.stored(task.round_num, update.stored)
    return update


def _identity(asked: Task | Update) -> tuple[int, int, str]:
    return asked.round_num, asked.attempt, asked.base_digest
