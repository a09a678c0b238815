"""What waits to be sent to one peer: bounded, and messages before chunks.

Messages are few and small; a peer that lets more of them pile up than a
conversation can hold does not read and is given up. Chunks wait as digests
and become bytes when their turn comes, so that a model that waits for a slow
peer is not held twice.
"""

import asyncio
from collections import deque
from collections.abc import Iterable, Mapping

from agent.rundir.chunks.payload import Payload
from trainer.federated.messages import Chunk, Message
from trainer.federated.transport import DisconnectedError

MAX_MESSAGES = 64


class Outbox:
    """A queue for one writer task. Used inside one event loop."""

    def __init__(self) -> None:
        """Make it empty."""
        self._messages: deque[Message] = deque()
        self._chunks: dict[str, Payload] = {}
        self._is_closed = False
        self._changed = asyncio.Event()

    def put(self, message: Message) -> None:
        """Queue a message.

        Raises:
            DisconnectedError: the peer has not read for too many messages.
        """
        if len(self._messages) >= MAX_MESSAGES:
            raise DisconnectedError(f"the peer left {MAX_MESSAGES} messages unread")
        self._messages.append(message)
        self._changed.set()

    def put_chunks(
        self, digests: Iterable[str], payloads: Mapping[str, Payload]
    ) -> None:
        """Queue chunks, each once; unknown digests are of an older model: ignored."""
        for digest in digests:
            if digest in payloads:
                self._chunks[digest] = payloads[digest]
        self._changed.set()

    def close(self) -> None:
        """Let `next` return None once the messages are sent; chunks are dropped."""
        self._is_closed = True
        self._chunks.clear()
        self._changed.set()

    async def next(self) -> Message | None:
        """Return what is to be sent next, waiting for it; None: closed."""
        while True:
            if self._messages:
                return self._messages.popleft()
            if self._chunks:
                digest, payload = next(iter(self._chunks.items()))
                del self._chunks[digest]
                return Chunk(digest, payload.dtype, bytes(payload.data))
            if self._is_closed:
                return None
            self._changed.clear()
            await self._changed.wait()
