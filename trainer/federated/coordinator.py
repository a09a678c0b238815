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

from agent.rundir.errors import RunDirError
from trainer.federated.attendance import Attendance, say_over
from trainer.federated.committed import Committed
from trainer.federated.config import round_rules
from trainer.federated.global_model import GlobalModel
from trainer.federated.intake import Given, examine
from trainer.federated.messages import PROTOCOL, Task, UpdateOffer, Welcome
from trainer.federated.peer import Peer, Receiving
from trainer.federated.problem import Settings
from trainer.federated.rounds import Rounds
from trainer.federated.server_events import ServerEvents
from trainer.federated.terms import (
    Abandon,
    Ask,
    Close,
    Effect,
    Finish,
    Offer,
    Open,
    Phase,
)
from trainer.federated.transfer import Packed
from trainer.federated.transport import Link
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
        self._first_round = model.round_num + 1
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
        self._given: dict[str, Given] = {}
        self._opened_ns = 0
        self._timer: asyncio.TimerHandle | None = None
        self._work: asyncio.Task[None] | None = None
        self._over: asyncio.Future[Finish] = self._loop.create_future()
        self.failure: Exception | None = None
        """What ended the federation, if something was raised."""

    @property
    def packed(self) -> Packed:
        """The current global model."""
        return self._model.packed

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

    async def serve(self, key: str, link: Link) -> None:
        """Serve one stream of a client; one that comes too often is put off."""
        if self._attendance.lets_in(key):
            await Peer(key, link, self).serve()
        else:
            self._events.turned_away(key, "it comes too often")

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

    def arrived(self, peer: Peer) -> None:
        """Welcome a client; an older session of it is over."""
        older = self._attendance.peer_of(peer.key)
        if older is not None:
            older.end("another session of this client began", is_unwanted=True)
            # It may be a stream that broke without a word to this end.
            self._attendance.keep_leftovers(older)
            self._forget(older, "another session began")
        self._attendance.greet(peer)
        if self._over.done():
            say_over(peer, self._over.result())

    def ready(self, peer: Peer) -> None:
        """The client has the model and has dealt with what it missed."""
        if not self._attendance.is_here(peer) or self._over.done():
            return
        self._events.joined(
            peer.key,
            peer.session,
            self._model.acked.get(peer.key),
            is_return=self._attendance.note_return(peer.key),
        )
        self._obey(self._rounds.join(peer.key, peer.session, time.monotonic_ns()))

    def turned_away(self, key: str, reason: str) -> None:
        """Somebody who claims this key was refused before a session began."""
        self._events.turned_away(key, reason)

    def refusal(self, peer: Peer, offer: UpdateOffer) -> str | None:
        """Say why an update would not count; None: go on and receive it."""
        refusal = self._rounds.refusal(_identity(peer, offer), time.monotonic_ns())
        return self._tell_refusal(peer, offer, refusal)

    async def received(self, peer: Peer, receiving: Receiving) -> str | None:
        """A whole update is there; return why it does not count, None: it does."""
        arrived_ns = time.monotonic_ns()
        offer, parcel = receiving.offer, receiving.parcel
        try:
            given = await asyncio.to_thread(examine, peer.key, offer, parcel)
        except RunDirError as error:
            told = self._tell_refusal(peer, offer, str(error))
            # Asked again, the client would train the same: nobody waits for it.
            now_ns = time.monotonic_ns()
            self._obey(
                self._rounds.decline(peer.key, peer.session, offer.round_num, now_ns)
            )
            return told
        refusal, effects = self._rounds.update(
            _identity(peer, offer), time.monotonic_ns()
        )
        if refusal is None:
            self._given[peer.key] = given.arrived(
                opened_ns=self._opened_ns, transfer_ns=arrived_ns - receiving.began_ns
            )
        self._obey(effects)
        return self._tell_refusal(peer, offer, refusal)

    def left(self, peer: Peer, reason: str) -> None:
        """A stream is over."""
        if self._attendance.is_here(peer):
            self._attendance.keep_leftovers(peer)
            self._forget(peer, reason)

    def _forget(self, peer: Peer, reason: str) -> None:
        self._attendance.forget(peer)
        if self._over.done():
            self._attendance.note_leaving()
            return
        self._events.lost(peer.key, peer.session, reason)
        now_ns = time.monotonic_ns()
        self._obey(self._rounds.lose(peer.key, peer.session, now_ns))

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
                self._events.abandoned(effect, sorted(self._given))
                self._given.clear()
            else:
                self._finish(effect)
        self._set_timer()

    async def _look(self) -> None:
        """Do now and then what nothing else brings about."""
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
            self._events.look()
            self._attendance.look()

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
        self._opened_ns = time.monotonic_ns()
        self._given.clear()
        self._events.opened(effect, self._opened_ns)
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
            if not self._over.done():
                self.failure = error
                told = f"{type(error).__name__}: {error}"
                self._obey(self._rounds.commit_failed(told))

    async def _commit(self, close: Close) -> None:
        """Average, store, tell, and let the machine go on."""
        given = {client: self._given[client] for client in close.members}
        updates = [one.update for one in given.values()]
        self._events.closing()
        contributions = {client: one.contribution for client, one in given.items()}
        done = await self._worker.run(
            lambda: self._model.advance(close.round_num, updates, close, contributions)
        )
        self._given.clear()
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
        self._attendance.tell_over(finish)

    def _tell_refusal(
        self, peer: Peer, offer: UpdateOffer, refusal: str | None
    ) -> str | None:
        if refusal is not None:
            is_ours = self._first_round <= offer.round_num <= self._rounds.round_num
            round_num = offer.round_num if is_ours else None
            self._events.refused(peer.key, round_num, refusal)
        return refusal


def _identity(peer: Peer, offer: UpdateOffer) -> Offer:
    return Offer(
        client=peer.key,
        session=peer.session,
        round_num=offer.round_num,
        attempt=offer.attempt,
        base_digest=offer.base_digest,
    )
