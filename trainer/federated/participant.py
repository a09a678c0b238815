"""What a client does in answer to the server, across connections.

The event loop calls; model, optimizer and store belong to one worker thread,
so that a connection lives on while a round is trained, and training lives on
while a connection is gone. What was missed meanwhile is dealt with before the
client says that it is ready again.
"""

import asyncio
import contextlib
import functools
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TypeVar

import msgspec

from agent.rundir.chunks.layout import RoundLayout
from trainer.federated.arrival import Arrival, Whole
from trainer.federated.client_events import ClientEvents
from trainer.federated.messages import (
    PROTOCOL,
    BadMessageError,
    Chunk,
    FromServer,
    Message,
    Model,
    Over,
    Ready,
    Task,
    Want,
    Welcome,
)
from trainer.federated.outbox import Outbox
from trainer.federated.problem import Settings
from trainer.federated.transport import DisconnectedError
from trainer.federated.workbench import Update, Workbench

_T = TypeVar("_T")


@dataclass(frozen=True)
class _Job:
    """A round that is being trained."""

    task: Task
    cancelled: threading.Event
    done: asyncio.Task[None]


@dataclass(frozen=True)
class _Part:
    """What a client needs to take part in one attempt of a run."""

    welcome: Welcome
    workbench: Workbench
    layout: RoundLayout
    """Of what is averaged: names, dtypes and shapes have to be these."""
    events: ClientEvents


class Participant:
    """One client's part in a federation."""

    def __init__(
        self,
        make_workbench: Callable[[Settings, str], Workbench],
        make_events: Callable[[int, Workbench], ClientEvents],
    ) -> None:
        """Begin without a run. Call it inside the loop.

        Args:
            make_workbench: Makes model, optimizer and store from the settings
                and the run's id; called on the worker thread.
            make_events: Makes what tells an attempt of the run.
        """
        self.failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Gets the exception that local training ended with."""
        self._make_workbench = make_workbench
        self._make_events = make_events
        self._worker = ThreadPoolExecutor(1, "local-model")
        self._outbox: Outbox | None = None
        self._part: _Part | None = None
        self._is_ready = False
        self._latest: Model | None = None
        self._arrival = Arrival()
        self._task: Task | None = None
        self._asked_ns = 0
        self._job: _Job | None = None
        self._update: Update | None = None

    def connected(self, outbox: Outbox) -> None:
        """A connection is there: answers go out through it."""
        self._outbox, self._is_ready, self._task = outbox, False, None

    def disconnected(self) -> None:
        """The connection is gone; a round that is being trained goes on."""
        self._outbox, self._is_ready = None, False
        if self._part is not None and self._job is None:
            self._part.events.waiting()

    async def handle(self, message: FromServer) -> Over | None:
        """Do what a message asks for; return it if it is the last one.

        Raises:
            RunDirError: the server and this client cannot work together.
        """
        if isinstance(message, Over):
            return message
        if isinstance(message, Welcome):
            await self._begin(message)
        elif isinstance(message, Model):
            await self._take_model(message)
        elif isinstance(message, Chunk):
            await self._take_chunk(message)
        elif isinstance(message, Task):
            await self._take_task(message)
        elif isinstance(message, Want) and self._update and self._outbox:
            self._outbox.put_chunks(message.digests, self._update.packed.payloads)
        return None

    async def close(self, reason: str, error: str | None = None) -> None:
        """Stop training and let go of everything."""
        await self._cancel_training()
        if self._part is not None:
            await self._in_worker(self._part.workbench.close)
            self._part.events.ended(reason, error)
        self._worker.shutdown(wait=True)

    async def _begin(self, welcome: Welcome) -> None:
        """Take part in this attempt; what an older one asked for is void."""
        if welcome.protocol != PROTOCOL:
            raise BadMessageError(
                f"the server speaks protocol {welcome.protocol}, this client {PROTOCOL}"
            )
        before = self._part
        if before is not None and _attempt(before.welcome) == _attempt(welcome):
            return
        await self._cancel_training()
        self._update = None
        if before is not None:
            before.events.ended("stopped")
        workbench = before.workbench if before else None
        if before is not None and not _is_same_run(before.welcome, welcome):
            await self._in_worker(before.workbench.close)
            workbench = None
        if workbench is None:
            workbench = await self._in_worker(
                functools.partial(
                    self._make_workbench, _settings(welcome), welcome.run_id
                )
            )
        layout = workbench.averaged_layout()
        events = self._make_events(welcome.attempt, workbench)
        self._part = _Part(welcome, workbench, layout, events)

    async def _take_model(self, model: Model) -> None:
        """Note a new global model; the first one of a session is fetched at once."""
        part = self._known_part()
        self._latest = model
        if self._job is not None and model.round_num >= self._job.task.round_num:
            # The round that is being trained was committed without this client.
            await self._cancel_training()
        if not self._is_ready:
            await self._fetch(model)
            return
        self._arrival.give_up()
        acknowledge = functools.partial(part.workbench.acknowledge, model.acked_round)
        await self._in_worker(acknowledge)

    async def _fetch(self, model: Model) -> None:
        """Ask for the chunks of a model that are not here."""
        part = self._known_part()
        if not self._arrival.is_whole(model.digest):
            lacking = self._arrival.expect(model, part.layout)
            if self._job is None and lacking:
                look = functools.partial(part.workbench.known_chunks, lacking)
                lacking = self._arrival.reuse(await self._in_worker(look))
            if lacking:
                part.events.fetching()
                self._send(Want(lacking))
                return
            await self._arrival.unpack()
        await self._use_model()

    async def _take_chunk(self, chunk: Chunk) -> None:
        if self._arrival.take(chunk):
            await self._arrival.unpack()
            await self._use_model()

    async def _use_model(self) -> None:
        """The model is whole: get ready with it, or train what was asked for."""
        if not self._is_ready:
            await self._get_ready()
        await self._train_if_asked()

    async def _get_ready(self) -> None:
        """Deal with what was missed, then say that this client may be asked."""
        part, model = self._known_part(), self._latest
        assert model is not None, "a model is whole that was never told"
        if not self._is_training_on(model, part):
            await self._cancel_training()
            settle = functools.partial(self._settle, part, model)
            await self._in_worker(settle)
            part.events.waiting()
        self._is_ready = True
        self._send(Ready())

    def _is_training_on(self, model: Model, part: _Part) -> bool:
        """Whether the round that is being trained is the one that is open."""
        job = self._job
        return (
            job is not None
            and job.task.base_digest == model.digest
            and part.workbench.standing.acked_round == model.acked_round
        )

    def _settle(self, part: _Part, model: Model) -> None:
        reset = part.workbench.settle(
            server_acked=model.acked_round,
            attempt=part.welcome.attempt,
            last_round=model.round_num,
        )
        if reset is not None:
            part.events.reset(reset, model.digest)

    async def _take_task(self, task: Task) -> None:
        self._task, self._asked_ns = task, time.monotonic_ns()
        latest = self._latest
        if self._arrival.is_whole(task.base_digest):
            await self._train_if_asked()
        elif latest is not None and latest.digest == task.base_digest:
            await self._fetch(latest)

    async def _train_if_asked(self) -> None:
        task, whole = self._task, self._arrival.whole
        if task is None or whole is None or whole.digest != task.base_digest:
            return
        self._task = None
        if self._update is not None and _identity(self._update) == _identity(task):
            self._offer(self._update)
            return
        if self._job is not None and _identity(self._job.task) == _identity(task):
            return
        await self._cancel_training()
        cancelled = threading.Event()
        training = self._train(self._known_part(), task, whole, cancelled)
        self._job = _Job(task, cancelled, asyncio.create_task(training))

    async def _train(
        self, part: _Part, task: Task, whole: Whole, cancelled: threading.Event
    ) -> None:
        """Train a round and offer it; an error ends the client, not only this."""
        part.events.training(task.round_num)
        fetch_ns = time.monotonic_ns() - self._asked_ns
        work = functools.partial(self._train_here, part, task, whole, cancelled)
        try:
            update = await self._in_worker(work)
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
        self._update = replace(update, report=report)
        self._offer(self._update)

    def _train_here(
        self, part: _Part, task: Task, whole: Whole, cancelled: threading.Event
    ) -> Update | None:
        """Do the part of a round that runs on the worker thread."""
        workbench, events = part.workbench, part.events
        reset = workbench.prepare(task.round_num, whole.tensors)
        if reset is not None:
            events.reset(reset, whole.digest)
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

    def _offer(self, update: Update) -> None:
        if self._is_ready:
            self._send(update.as_offer())

    def _send(self, message: Message) -> None:
        """Answer if there is a connection; the next one begins anew."""
        if self._outbox is not None:
            with contextlib.suppress(DisconnectedError):
                self._outbox.put(message)

    async def _cancel_training(self) -> None:
        job = self._job
        if job is not None:
            job.cancelled.set()
            await asyncio.gather(job.done, return_exceptions=True)

    def _known_part(self) -> _Part:
        if self._part is None:
            raise BadMessageError("the server began without a welcome")
        return self._part

    async def _in_worker(self, call: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._worker, call)


def _attempt(welcome: Welcome) -> tuple[str, int]:
    return welcome.run_id, welcome.attempt


def _settings(welcome: Welcome) -> Settings:
    try:
        return msgspec.msgpack.decode(welcome.settings, type=Settings)
    except msgspec.DecodeError as error:
        raise BadMessageError(f"the server's settings: {error}") from error


def _is_same_run(a: Welcome, b: Welcome) -> bool:
    return a.run_id == b.run_id and bytes(a.settings) == bytes(b.settings)


def _identity(asked: Task | Update) -> tuple[int, int, str]:
    return asked.round_num, asked.attempt, asked.base_digest
