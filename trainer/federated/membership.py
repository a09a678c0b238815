"""A client's connections: it talks, comes back, until the federation is over.

A connection that breaks is tried again with exponential back-off and jitter
for as long as patience lasts; a server that turns the client away is not.
"""

import asyncio
import contextlib
import time
import uuid
from typing import Any

from agent.rundir.errors import RunDirError
from trainer.console import say
from trainer.federated.backoff import FIRST_S, Backoff
from trainer.federated.messages import (
    PROTOCOL,
    Goodbye,
    Hello,
    Over,
    decode_from_server,
    encode,
)
from trainer.federated.outbox import Outbox
from trainer.federated.participant import Participant
from trainer.federated.security import ClientSecurity, Endpoint
from trainer.federated.transport import DisconnectedError, Link, connect

_FAREWELL_S = 1.0
"""How long the goodbye may take to go out."""


class Membership:
    """One client, over as many connections as it takes."""

    def __init__(
        self,
        key: str,
        endpoint: Endpoint,
        security: ClientSecurity,
        participant: Participant,
        *,
        give_up_s: float,
    ) -> None:
        """Prepare to connect. Call it inside the loop.

        Args:
            key: Stable over restarts: the server knows the client by it.
            endpoint: The server's.
            security: Token and trust.
            participant: What the client does in answer.
            give_up_s: How long a server that does not answer is tried again.
        """
        self._key = key
        self._endpoint = endpoint
        self._security = security
        self._participant = participant
        self._give_up_s = give_up_s
        self._stopping = asyncio.Event()
        self._is_welcome = False

    def stop(self) -> None:
        """Say goodbye and leave."""
        self._stopping.set()

    async def run(self) -> Over:
        """Take part until the federation is over, or this client is stopped.

        Raises:
            TurnedAwayError: the server does not want this client.
            DisconnectedError: no server answered for too long.
            RunDirError: server and client cannot work together.
            Exception: whatever local training raised.
        """
        try:
            over = await self._until_over()
        except BaseException as problem:
            told = f"{type(problem).__name__}: {problem}"
            await self._participant.close("error", told)
            raise
        await self._participant.close(over.reason, over.detail)
        return over

    async def _until_over(self) -> Over:
        backoff = Backoff()
        lonely_since = time.monotonic()
        has_told = False
        failure = self._participant.failure
        while not self._stopping.is_set():
            if failure.done():
                failure.result()
            self._is_welcome = False
            failed: DisconnectedError | None = None
            try:
                over = await self._talk_once()
                if over is not None:
                    return over
            except DisconnectedError as error:
                failed = error
            if self._is_welcome:
                backoff.reset()
                lonely_since = time.monotonic()
                has_told = False
            left_s = lonely_since + self._give_up_s - time.monotonic()
            if failed is not None and not self._is_welcome:
                if left_s <= 0:
                    raise failed
                if not has_told:
                    has_told = True
                    say(f"{self._key}: {failed}; trying for {self._give_up_s:g} s")
            pause_s = min(backoff.next_s(), max(FIRST_S, left_s))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause_s)
        return Over("stopped")

    async def _talk_once(self) -> Over | None:
        """Hold one connection; None: it ended before the federation did."""
        async with connect(self._endpoint, self._security, self._key) as link:
            outbox = Outbox()
            outbox.put(Hello(PROTOCOL, uuid.uuid4().hex))
            self._participant.connected(outbox)
            reader = asyncio.create_task(self._read_all(link))
            writer = asyncio.create_task(self._write_all(link, outbox))
            stopping = asyncio.create_task(self._stopping.wait())
            failure = self._participant.failure
            try:
                ends: set[asyncio.Future[Any]] = {reader, writer, stopping, failure}
                await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
                if failure.done():
                    failure.result()
                if stopping.done():
                    return await self._say_goodbye(outbox, writer)
                return reader.result() if reader.done() else writer.result()
            finally:
                self._participant.disconnected()
                await _cancel(reader, writer, stopping)

    async def _read_all(self, link: Link) -> Over | None:
        while (data := await link.read()) is not None:
            over = await self._participant.handle(decode_from_server(data))
            self._is_welcome = True
            if over is not None:
                return over
        raise DisconnectedError("the server ended the connection")

    async def _write_all(self, link: Link, outbox: Outbox) -> None:
        while (message := await outbox.next()) is not None:
            await link.write(encode(message))

    async def _say_goodbye(self, outbox: Outbox, writer: asyncio.Task[None]) -> Over:
        with contextlib.suppress(RunDirError, TimeoutError):
            outbox.put(Goodbye("stopped"))
            outbox.close()
            await asyncio.wait_for(asyncio.shield(writer), _FAREWELL_S)
        return Over("stopped")


async def _cancel(*tasks: asyncio.Task[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
