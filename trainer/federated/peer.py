"""The server's end of one client's stream: reads, writes, receives one update.

It turns messages into calls of the host and knows nothing of rounds. What a
client sends is checked here: an update is described before it is sent, and its
description has to be that of the run's model before memory is spent on it.
"""

import asyncio
import time
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Protocol

from agent.rundir.chunks.payload import Payload
from agent.rundir.errors import RunDirError
from trainer.federated.messages import (
    PROTOCOL,
    BadMessageError,
    Chunk,
    FromClient,
    Goodbye,
    Hello,
    Message,
    Ready,
    UpdateOffer,
    Verdict,
    Want,
    decode_from_client,
    encode,
)
from trainer.federated.outbox import Outbox
from trainer.federated.terms import is_client_key
from trainer.federated.transfer import Leftovers, Packed, Parcel, read_layout
from trainer.federated.transport import DisconnectedError, Link, TurnedAwayError

_GONE = "the connection is gone"
_HELLO_LIMIT_S = 30.0
"""A client says hello at once; a stopped one may try again when it goes on."""


@dataclass
class Receiving:
    """An update that is being received."""

    offer: UpdateOffer
    parcel: Parcel
    began_ns: int = field(default_factory=time.monotonic_ns)
    """Monotonic."""

    def leftovers(self) -> Leftovers:
        """Return what has travelled so far."""
        return Leftovers(self.offer.round_num, self.parcel.received)


class Host(Protocol):
    """What a peer needs of the server. Calls are made in the event loop."""

    @property
    def packed(self) -> Packed:
        """The current global model."""
        ...

    def arrived(self, peer: "Peer") -> None:
        """The client has said hello: welcome it; its older session is over."""
        ...

    def ready(self, peer: "Peer") -> None:
        """The client has the model and may be asked."""
        ...

    def refusal(self, peer: "Peer", offer: UpdateOffer) -> str | None:
        """Say why an update would not count; None: go on and receive it."""
        ...

    async def received(self, peer: "Peer", receiving: Receiving) -> str | None:
        """A whole update is there; return why it does not count, None: it does."""
        ...

    def left(self, peer: "Peer", reason: str) -> None:
        """The stream is over."""
        ...

    def turned_away(self, key: str, reason: str) -> None:
        """Somebody was refused before a session began."""
        ...


class Peer:
    """One session of one client."""

    def __init__(self, key: str, link: Link, host: Host) -> None:
        """Make it; `serve` does the talking."""
        self.key = key
        self.outbox = Outbox()
        self.hello: Hello | None = None
        self._link = link
        self._host = host
        self._receiving: Receiving | None = None
        self._leftovers = Leftovers()
        self._ending: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._is_unwanted = False
        self._is_ready = False

    @property
    def session(self) -> str:
        """The id that the client gave this stream; empty before its hello."""
        return self.hello.session if self.hello else ""

    @property
    def leftovers(self) -> Leftovers:
        """What has travelled of an update, whole or not."""
        return self._receiving.leftovers() if self._receiving else self._leftovers

    def inherit(self, leftovers: Leftovers) -> None:
        """Go on with what a broken stream of the same client had received."""
        self._leftovers = leftovers

    def send(self, message: Message) -> None:
        """Queue a message; a client that does not read is given up."""
        try:
            self.outbox.put(message)
        except DisconnectedError as error:
            self.end(str(error))

    def end(self, reason: str, *, is_unwanted: bool = False) -> None:
        """Have the session over; an unwanted client is told not to come back."""
        if not self._ending.done():
            self._is_unwanted = is_unwanted
            self._ending.set_result(reason)

    async def serve(self) -> None:
        """Talk until either side is through.

        Raises:
            TurnedAwayError: the client is not wanted.
        """
        tasks = [
            asyncio.create_task(self._until_over(work))
            for work in (self._read_all(), self._write_all())
        ]
        reason = _GONE
        try:
            reason = await self._ending
        finally:
            for task in tasks:
                task.cancel()
            # Before any await: gRPC may cancel this very coroutine again.
            if self.hello is not None:
                self._host.left(self, reason)
            await asyncio.gather(*tasks, return_exceptions=True)
        if self._is_unwanted:
            if self.hello is None:
                self._host.turned_away(self.key, reason)
            raise TurnedAwayError(reason)

    async def _until_over(self, work: Coroutine[None, None, str | None]) -> None:
        try:
            reason = await work
        except DisconnectedError:
            self.end(_GONE)
        except RunDirError as error:
            self.end(str(error), is_unwanted=True)
        except Exception as error:  # noqa: BLE001 - nobody else waits for this task: a session without it would stand still
            self.end(f"{type(error).__name__}: {error}", is_unwanted=True)
        else:
            if reason is not None:
                self.end(reason)

    async def _write_all(self) -> None:
        while (message := await self.outbox.next()) is not None:
            await self._link.write(encode(message))

    async def _read_all(self) -> str:
        try:
            async with asyncio.timeout(_HELLO_LIMIT_S):
                hello = await self._next()
        except TimeoutError:
            return "it said nothing"
        if not is_client_key(self.key):
            raise BadMessageError(f"`{ascii(self.key)[1:-1]}` cannot name a client")
        if not isinstance(hello, Hello):
            raise BadMessageError(f"`{self.key}` did not begin with a hello")
        if hello.protocol != PROTOCOL:
            raise BadMessageError(
                f"the server speaks protocol {PROTOCOL}, this client {hello.protocol}"
            )
        self.hello = hello
        self._host.arrived(self)
        while (message := await self._next()) is not None:
            if isinstance(message, Goodbye):
                return f"it left: {message.reason}"
            await self._handle(message)
        return _GONE

    async def _next(self) -> FromClient | None:
        data = await self._link.read()
        return None if data is None else decode_from_client(data)

    async def _handle(self, message: FromClient) -> None:
        if isinstance(message, Ready):
            if self._is_ready:
                raise BadMessageError(f"`{self.key}` was ready twice")
            self._is_ready = True
            self._host.ready(self)
        elif isinstance(message, Want):
            self.outbox.put_chunks(message.digests, self._host.packed.payloads)
        elif isinstance(message, UpdateOffer):
            await self._consider(message)
        elif isinstance(message, Chunk):
            await self._take(message)
        else:
            raise BadMessageError(f"`{self.key}` said hello twice")

    async def _consider(self, offer: UpdateOffer) -> None:
        """Ask for the chunks of an update that are not here."""
        refusal = self._host.refusal(self, offer)
        if refusal is not None:
            self.send(Verdict(round_num=offer.round_num, refusal=refusal))
            return
        expected = self._host.packed.layout
        parcel = Parcel(read_layout(offer.layout, expected, f"client `{self.key}`"))
        parcel.reuse(self._host.packed.payloads)
        if self.leftovers.round_num == offer.round_num:
            parcel.resume(self.leftovers.payloads)
        self._receiving = Receiving(offer, parcel)
        if parcel.lacking:
            self.send(Want(parcel.lacking))
        else:
            await self._finish(self._receiving)

    async def _take(self, chunk: Chunk) -> None:
        receiving = self._receiving
        if receiving is None:
            return
        receiving.parcel.receive(Payload(chunk.digest, chunk.dtype, chunk.data))
        if receiving.parcel.is_whole:
            await self._finish(receiving)

    async def _finish(self, receiving: Receiving) -> None:
        # Until the host has decided, a stream that breaks leaves all of it.
        self._receiving, self._leftovers = None, receiving.leftovers()
        refusal = await self._host.received(self, receiving)
        self._leftovers = Leftovers()
        self.send(Verdict(round_num=receiving.offer.round_num, refusal=refusal))
