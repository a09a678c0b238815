"""What a client does in answer to the server, across connections.

The event loop calls; model, optimizer and store belong to one worker thread,
so that a connection lives on while a round is trained, and training lives on
while a connection is gone. What was missed meanwhile is dealt with before the
client says that it is ready again.
"""

import contextlib
import functools
import time
from collections.abc import Callable

from trainer.federated.arrival import Arrival
from trainer.federated.client_events import ClientEvents
from trainer.federated.messages import (
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
from trainer.federated.part import Part, read_settings
from trainer.federated.problem import Settings
from trainer.federated.training import Asked, Training
from trainer.federated.transport import DisconnectedError
from trainer.federated.workbench import Stored, Update, Workbench
from trainer.federated.worker import Worker


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
        self._make_workbench = make_workbench
        self._make_events = make_events
        self._worker = Worker("local-model")
        self._training = Training(self._worker, self._offer)
        self.failure = self._training.failure
        """Gets the exception that local training ended with."""
        self._outbox: Outbox | None = None
        self._part: Part | None = None
        self._is_ready = False
        self._latest: Model | None = None
        self._arrival = Arrival()
        self._task: Task | None = None
        self._asked_ns = 0

    def connected(self, outbox: Outbox) -> None:
        """A connection is there: answers go out through it."""
        self._outbox, self._is_ready, self._task = outbox, False, None

    def disconnected(self) -> None:
        """The connection is gone; a round that is being trained goes on."""
        self._outbox, self._is_ready = None, False
        if self._part is not None and self._training.task is None:
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
        elif isinstance(message, Want):
            self._give(message)
        return None

    async def close(self, reason: str, error: str | None = None) -> None:
        """Stop training and let go of everything."""
        await self._training.cancel()
        if self._part is not None:
            await self._worker.run(self._part.workbench.close)
            self._part.events.ended(reason, error)
        self._worker.end()

    async def _begin(self, welcome: Welcome) -> None:
        """Take part in this attempt; what an older one asked for is void."""
        settings = read_settings(welcome)
        before = self._part
        if before is not None and before.is_of(welcome):
            return
        await self._training.cancel()
        self._training.update = None
        workbench = None
        if before is not None:
            before.events.ended("stopped")
            if before.is_same_run(welcome):
                workbench = before.workbench
            else:
                await self._worker.run(before.workbench.close)
        if workbench is None:
            make = functools.partial(self._make_workbench, settings, welcome.run_id)
            workbench = await self._worker.run(make)
        layout = workbench.averaged_layout()
        events = self._make_events(welcome.attempt, workbench)
        self._part = Part(welcome, workbench, layout, events)

    async def _take_model(self, model: Model) -> None:
        """Note a new global model; the first one of a session is fetched at once."""
        part = self._known_part()
        self._latest = model
        task = self._training.task
        if task is not None and model.round_num >= task.round_num:
            # The round that is being trained was committed without this client.
            await self._training.cancel()
        if not self._is_ready:
            await self._fetch(model)
            return
        self._arrival.give_up()
        acknowledge = functools.partial(part.workbench.acknowledge, model.acked_round)
        error = await self._worker.run(acknowledge)
        if error is not None:
            part.events.stored(model.round_num, Stored(error=error))

    async def _fetch(self, model: Model) -> None:
        """Ask for the chunks of a model that are not here."""
        part = self._known_part()
        if not self._arrival.is_whole(model.digest):
            lacking = self._arrival.expect(model, part.layout)
            if self._training.task is None and lacking:
                look = functools.partial(part.workbench.known_chunks, lacking)
                lacking = self._arrival.reuse(await self._worker.run(look))
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
            await self._training.cancel()
            await self._worker.run(functools.partial(_settle, part, model))
            part.events.waiting()
        self._is_ready = True
        self._send(Ready())

    def _is_training_on(self, model: Model, part: Part) -> bool:
        """Whether the round that is being trained is the one that is open."""
        task = self._training.task
        return (
            task is not None
            and task.base_digest == model.digest
            and part.workbench.standing.acked_round == model.acked_round
        )

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
        update = self._training.update_for(task)
        if update is not None:
            self._offer(update)
            return
        if self._training.is_on(task):
            return
        await self._training.cancel()
        restored_round = self._latest.restored_round if self._latest else None
        asked = Asked(task, whole, restored_round, self._asked_ns)
        self._training.start(self._known_part(), asked)

    def _give(self, want: Want) -> None:
        """Send chunks of the update that was offered."""
        update = self._training.update
        if update is not None and self._outbox is not None:
            self._outbox.put_chunks(want.digests, update.packed.payloads)

    def _offer(self, update: Update) -> None:
        if self._is_ready:
            self._send(update.as_offer())

    def _send(self, message: Message) -> None:
        """Answer if there is a connection; the next one begins anew."""
        if self._outbox is not None:
            with contextlib.suppress(DisconnectedError):
                self._outbox.put(message)

    def _known_part(self) -> Part:
        if self._part is None:
            raise BadMessageError("the server began without a welcome")
        return self._part


def _settle(part: Part, model: Model) -> None:
    """Deal with what was missed. Called on the worker thread."""
    reset = part.workbench.settle(
        server_acked=model.acked_round,
        attempt=part.welcome.attempt,
        last_round=model.round_num,
        restored_round=model.restored_round,
    )
    if reset is not None:
        part.events.reset(reset, model.digest, model.round_num)
