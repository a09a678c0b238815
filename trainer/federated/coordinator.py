"""The server of a federation: runs the rounds, owns the global model.

One event loop owns the machine of rounds and every session, so there is no
lock to hold; averaging, measuring and the store run on one worker thread.
Deadlines are timers of the loop's monotonic clock, set from what the machine
says, and need no message to fire. A round is durable before it is told.
"""

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

import msgspec

from agent.rundir.errors import LockedError
from trainer.federated.attendance import Attendance
from trainer.federated.committed import Committed
from trainer.federated.config import round_rules
from trainer.federated.global_model import GlobalModel
from trainer.federated.messages import PROTOCOL, Task, Welcome
from trainer.federated.problem import Settings
from trainer.federated.reception import Reception
from trainer.federated.rounds import Rounds
from trainer.federated.server_events import ServerEvents
from trainer.federated.terms import (
    Abandon,
    Ask,
    Close,
    Effect,
    Finish,
    Open,
    Phase,
)
from trainer.federated.worker import Worker

_LOOK_EVERY_S = 1.0
_T = TypeVar("_T")


class Coordinator:
    """Runs one attempt of a federation to its end."""

    def __init__(
        self,
        settings: Settings,
        model: GlobalModel,
        *,
        run_id: str,
        attempt: int,
        events: ServerEvents,
    ) -> None:
        """Go on after the model's last committed round. Call it inside the loop."""
        self._model = model
        self._attempt = attempt
        self._events = events
        self._loop = asyncio.get_running_loop()
        self._worker = Worker("global-model")
        self._rounds = Rounds(
            round_rules(settings.config),
            attempt=attempt,
            last_round=model.round_num,
            model_digest=model.packed.digest,
            now_ns=time.monotonic_ns(),
        )
        welcome = Welcome(
            protocol=PROTOCOL,
            run_id=run_id,
            attempt=attempt,
            settings=msgspec.Raw(msgspec.msgpack.encode(settings)),
        )
        self._attendance = Attendance(welcome, model)
        self.reception = Reception(
            self._rounds, self._attendance, model, events, self._obey
        )
        """What whoever connects is served by."""
        self._timer: asyncio.TimerHandle | None = None
        self._work: asyncio.Task[None] | None = None
        self._over: asyncio.Future[Finish] = self._loop.create_future()
        self.failure: Exception | None = None
        """What ended the federation, if something was raised."""

    async def run(self) -> Finish:
        """Run rounds until the federation is over; clients have left by then."""
        self._events.gathering()
        self._obey(self._rounds.tick(time.monotonic_ns()))
        looking = asyncio.create_task(self._look())
        try:
            finish = await self._over
            await self._attendance.see_off()
        finally:
            looking.cancel()
            if self._timer is not None:
                self._timer.cancel()
            if self._work is not None:
                await asyncio.gather(self._work, return_exceptions=True)
            self._worker.end()
            self._events.close()
        return finish

    def stop(self) -> None:
        """End now: a round that is open is abandoned, one being stored is not."""
        self._obey(self._rounds.stop(time.monotonic_ns(), at_once=True))

    def stop_gently(self) -> None:
        """End after the round that is open."""
        self._obey(self._rounds.stop(time.monotonic_ns()))

    def pause(self) -> None:
        """Open no further round."""
        self._rounds.pause()

    def proceed(self) -> None:
        """Open rounds again."""
        self._obey(self._rounds.proceed(time.monotonic_ns()))

    @property
    def is_paused(self) -> bool:
        """Whether no further round is opened."""
        return self._rounds.is_paused

    @property
    def is_between_rounds(self) -> bool:
        """Whether the model may be changed; stays so while paused."""
        is_working = self._work is not None and not self._work.done()
        return self._rounds.phase is Phase.GATHERING and not is_working

    @property
    def is_over(self) -> bool:
        """Whether no further round will be."""
        return self._over.done()

    async def adopt(self, change: Callable[[int], Committed], source: str) -> None:
        """Commit another model as a round of its own. Only between rounds.

        Args:
            change: Does it on the worker thread, given the round's number.
            source: Where the model is from, in words.

        Raises:
            RunDirError: the model is as before.
        """
        assert self.is_between_rounds, "a round is open"
        began_ns = time.monotonic_ns()
        done = await self.work(lambda: change(self._rounds.round_num))
        self._events.adopted(done, source, began_ns)
        self._attendance.tell_model()
        if not self._over.done():
            self._obey(self._rounds.adopt(done.packed.digest, time.monotonic_ns()))

    async def work(self, call: Callable[[], _T]) -> _T:
        """Call something on the thread that averages and stores."""
        return await self._worker.run(call)

    def _obey(self, effects: list[Effect]) -> None:
        """Do what the machine says, then set the timer for its next wish."""
        for effect in effects:
            if isinstance(effect, Open):
                self._open(effect)
            elif isinstance(effect, Ask):
                self._ask(effect.client)
            elif isinstance(effect, Close):
                self._work = self._loop.create_task(self._close(effect))
            elif isinstance(effect, Abandon):
                self._events.abandoned(effect, sorted(self.reception.given))
                self.reception.given.clear()
            else:
                self._finish(effect)
        self._set_timer()

    async def _look(self) -> None:
        """Do now and then what nothing else brings about."""
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
            self._events.look()
            self._attendance.look()
            try:
                await self._worker.run(self._model.require_home)
            except LockedError as error:
                # No round would be committed: nobody need train for it.
                self._fail(error)

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        wake_ns = self._rounds.wake_ns()
        if wake_ns is None:
            return
        delay_s = max(0, wake_ns - time.monotonic_ns()) / 1e9
        self._timer = self._loop.call_later(delay_s, self._tick)

    def _tick(self) -> None:
        self._obey(self._rounds.tick(time.monotonic_ns()))

    def _open(self, effect: Open) -> None:
        self._events.opened(effect, self.reception.begin_round())
        for client in effect.clients:
            self._ask(client)

    def _ask(self, client: str) -> None:
        deadline_ns = self._rounds.deadline_ns
        if deadline_ns is None:
            return
        task = Task(
            round_num=self._rounds.round_num,
            attempt=self._attempt,
            base_digest=self._rounds.model_digest,
            left_ns=deadline_ns - time.monotonic_ns(),
        )
        self._attendance.send(client, task)

    async def _close(self, close: Close) -> None:
        """Close a round, or end the federation and say so. Never raises."""
        try:
            await self._commit(close)
        except Exception as error:  # noqa: BLE001 - whatever it is, the federation must end and say so
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        if not self._over.done():
            self.failure = error
            self._obey(self._rounds.fail(f"{type(error).__name__}: {error}"))

    async def _commit(self, close: Close) -> None:
        """Average, store, tell, and let the machine go on."""
        given = {client: self.reception.given[client] for client in close.members}
        updates = [one.update for one in given.values()]
        self._events.closing()
        contributions = {client: one.contribution for client, one in given.items()}
        done = await self._worker.run(
            lambda: self._model.advance(close.round_num, updates, close, contributions)
        )
        self.reception.given.clear()
        self._events.committed(close, done)
        self._attendance.tell_model()
        self._obey(
            self._rounds.commit_done(
                close.round_num, done.packed.digest, time.monotonic_ns()
            )
        )
        if self._rounds.phase is Phase.GATHERING:
            self._events.gathering()

    def _finish(self, finish: Finish) -> None:
        self._over.set_result(finish)
        self.reception.finish(finish)
