"""Which clients are connected to the server, and what each of them is told.

A client has one session at a time: a newer one ends the older. What a broken
stream had received of an update is kept for the client's next one. Called in
the event loop.
"""

import asyncio
import time

from trainer.federated.flood import Allowance, Allowances, Rate
from trainer.federated.global_model import GlobalModel
from trainer.federated.messages import Message, Model, Over, Welcome
from trainer.federated.peer import Peer
from trainer.federated.terms import SECOND_NS, Finish
from trainer.federated.transfer import Leftovers

GOODBYE_S = 5.0
"""How long clients may take to leave once it is over."""
_STREAMS = Rate(at_once=200, every_ns=SECOND_NS // 2)
"""Of one client: one whose network breaks four times a second, so that few of its
streams live long enough to bring an update, is put off after 100 s of that."""
_ALL_STREAMS = Rate(at_once=1000, every_ns=SECOND_NS // 50)
"""Of all: without tokens anybody on this machine has as many keys as it likes."""


class Attendance:
    """The clients that are connected."""

    def __init__(self, welcome: Welcome, model: GlobalModel) -> None:
        """Begin with nobody."""
        self._welcome = welcome
        self._model = model
        self._peers: dict[str, Peer] = {}
        self._leftovers: dict[str, Leftovers] = {}
        """What broken streams had received, by client."""
        self._known: set[str] = set()
        self._streams = Allowances(_STREAMS)
        self._all_streams = Allowance(_ALL_STREAMS)
        self._everybody_left = asyncio.Event()

    def lets_in(self, client: str) -> bool:
        """Whether a client may open a stream now; each one that ends is told."""
        now_ns = time.monotonic_ns()
        # In this order one client that comes too often takes nothing from others.
        return self._streams.take(client, now_ns) and self._all_streams.take(now_ns)

    def look(self) -> None:
        """Forget what only the last seconds made worth knowing."""
        self._streams.look(time.monotonic_ns())

    def peer_of(self, client: str) -> Peer | None:
        """Return a client's session; None: it is not connected."""
        return self._peers.get(client)

    def is_here(self, peer: Peer) -> bool:
        """Whether this is its client's newest session, and not over."""
        return self._peers.get(peer.key) is peer

    def greet(self, peer: Peer) -> None:
        """Let a session in, and tell it of the run and the model."""
        peer.inherit(self._leftovers.pop(peer.key, Leftovers()))
        self._peers[peer.key] = peer
        peer.send(self._welcome)
        peer.send(self._told_model(peer.key, self._model.packed.layout.to_json()))

    def note_return(self, client: str) -> bool:
        """Say whether this attempt has seen the client before; it has from now on."""
        is_return = client in self._known
        self._known.add(client)
        return is_return

    def forget(self, peer: Peer) -> None:
        """A session is over."""
        del self._peers[peer.key]

    def keep_leftovers(self, peer: Peer) -> None:
        """Keep what a broken stream had received for the client's next one."""
        self._leftovers[peer.key] = peer.leftovers

    def send(self, client: str, message: Message) -> None:
        """Tell a client something, if it is connected."""
        peer = self._peers.get(client)
        if peer is not None:
            peer.send(message)

    def tell_model(self) -> None:
        """Tell everybody of the new model, and of the round that counts."""
        # What was received of an update to the model before counts no more.
        self._leftovers.clear()
        layout = self._model.packed.layout.to_json()
        for peer in list(self._peers.values()):
            peer.send(self._told_model(peer.key, layout))

    def tell_over(self, finish: Finish) -> None:
        """Tell everybody that it is over."""
        self.note_leaving()
        for peer in list(self._peers.values()):
            say_over(peer, finish)

    def note_leaving(self) -> None:
        """Let `see_off` end once nobody is left."""
        if not self._peers:
            self._everybody_left.set()

    async def see_off(self) -> None:
        """Wait for the clients to leave, and end the streams of those that do not."""
        try:
            await asyncio.wait_for(self._everybody_left.wait(), GOODBYE_S)
        except TimeoutError:
            for peer in list(self._peers.values()):
                peer.end("the federation is over")

    def _told_model(self, client: str, layout: str) -> Model:
        return Model(
            round_num=self._model.round_num,
            digest=self._model.packed.digest,
            layout=layout,
            acked_round=self._model.acked.get(client),
            restored_round=self._model.restored_round,
        )


def say_over(peer: Peer, finish: Finish) -> None:
    """Tell one client that it is over; nothing follows."""
    peer.send(Over(finish.reason, finish.detail))
    peer.outbox.close()
