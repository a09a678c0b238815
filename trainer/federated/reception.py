"""Receives clients and what they give, for the coordinator of rounds.

What the peers call is here: who may come in, who is ready, which updates count.
It asks the machine of rounds and leaves what follows to the coordinator. Called
in the event loop.
"""

import asyncio
import time
from collections.abc import Callable

from agent.rundir.errors import RunDirError
from trainer.federated.attendance import Attendance, say_over
from trainer.federated.global_model import GlobalModel
from trainer.federated.intake import Given, examine
from trainer.federated.messages import UpdateOffer
from trainer.federated.peer import Peer, Receiving
from trainer.federated.rounds import Rounds
from trainer.federated.server_events import ServerEvents
from trainer.federated.terms import Effect, Finish, Offer
from trainer.federated.transfer import Packed
from trainer.federated.transport import Link


class Reception:
    """What every peer of one attempt talks to."""

    def __init__(
        self,
        rounds: Rounds,
        attendance: Attendance,
        model: GlobalModel,
        events: ServerEvents,
        obey: Callable[[list[Effect]], None],
    ) -> None:
        """Let nobody in yet.

        Args:
            rounds: Says what counts.
            attendance: Who is connected.
            model: The global one.
            events: Is told what happens.
            obey: Does what the machine of rounds says.
        """
        self.given: dict[str, Given] = {}
        """What counts in the open round, by client."""
        self._rounds = rounds
        self._first_round = rounds.round_num
        self._attendance = attendance
        self._model = model
        self._events = events
        self._obey = obey
        self._opened_ns = 0
        self._finish: Finish | None = None

    @property
    def packed(self) -> Packed:
        """The current global model."""
        return self._model.packed

    def begin_round(self) -> int:
        """Forget what was given to the round before; return when this one begins."""
        self.given.clear()
        self._opened_ns = time.monotonic_ns()
        return self._opened_ns

    def finish(self, finish: Finish) -> None:
        """Tell everybody, and whoever still comes, that it is over."""
        self._finish = finish
        self._attendance.tell_over(finish)

    async def serve(self, key: str, link: Link) -> None:
        """Serve one stream of a client; one that comes too often is put off."""
        if self._attendance.lets_in(key):
            await Peer(key, link, self).serve()
        else:
            self._events.turned_away(key, "it comes too often")

    def arrived(self, peer: Peer) -> None:
        """Welcome a client; an older session of it is over."""
        older = self._attendance.peer_of(peer.key)
        if older is not None:
            older.end("another session of this client began", is_unwanted=True)
            # It may be a stream that broke without a word to this end.
            self._attendance.keep_leftovers(older)
            self._forget(older, "another session began")
        self._attendance.greet(peer)
        if self._finish is not None:
            say_over(peer, self._finish)

    def ready(self, peer: Peer) -> None:
        """The client has the model and has dealt with what it missed."""
        if not self._attendance.is_here(peer) or self._finish is not None:
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
            self.given[peer.key] = given.arrived(
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
        if self._finish is not None:
            self._attendance.note_leaving()
            return
        self._events.lost(peer.key, peer.session, reason)
        now_ns = time.monotonic_ns()
        self._obey(self._rounds.lose(peer.key, peer.session, now_ns))

    def _tell_refusal(
        self, peer: Peer, offer: UpdateOffer, refusal: str | None
    ) -> str | None:
        """Tell it of the round that the offer names, if this attempt had that one."""
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
