"""A TCP relay that can be cut, slowed and mended: the network, in a test's hand."""

import asyncio
import contextlib

BLOCK = 4096


class Proxy:
    """Relays to one port of the loopback."""

    def __init__(self, port):
        self._target = port
        self._pairs = set()
        self._unseen = set()
        """Connections to the target whose other end is gone."""
        self._relays = set()
        self._is_cut = False
        self._open = asyncio.Event()
        self._open.set()
        self.limit_bytes = None
        """Cut by itself after so many bytes towards the target; None: never."""
        self.is_unseen = False
        """Whether the target is not told of a cut."""
        self.num_bytes = 0
        """Relayed towards the target."""
        self.num_connections = 0

    async def start(self):
        self._server = await asyncio.start_server(self._relay, "127.0.0.1", 0)
        return self._server.sockets[0].getsockname()[1]

    @property
    def is_cut(self):
        return self._is_cut

    async def stop(self):
        self.is_unseen = False
        self.cut()
        for writer in self._unseen:
            writer.transport.abort()
        self._open.set()
        self._server.close()
        await self._server.wait_closed()
        await asyncio.gather(*self._relays, return_exceptions=True)

    def cut(self):
        """Break every connection and accept none."""
        self._is_cut = True
        for writer, is_target in list(self._pairs):
            self._abort(writer, is_target=is_target)

    def _abort(self, writer, *, is_target):
        if is_target and self.is_unseen:
            self._unseen.add(writer)
        else:
            writer.transport.abort()

    def mend(self):
        self._is_cut, self.limit_bytes = False, None

    def stall(self):
        """Let nothing through, without a word to either side."""
        self._open.clear()

    def flow(self):
        self._open.set()

    async def _relay(self, reader, writer):
        self._relays.add(asyncio.current_task())
        if self._is_cut:
            writer.transport.abort()
            return
        self.num_connections += 1
        there = []
        with contextlib.suppress(OSError):
            there = await asyncio.open_connection("127.0.0.1", self._target)
        if there:
            self._pairs |= {(writer, False), (there[1], True)}
            await asyncio.gather(
                self._pump(reader, there[1], counts=True),
                self._pump(there[0], writer, counts=False),
            )
        for end in ((writer, False), *((found, True) for found in there[1:])):
            self._pairs.discard(end)
            self._abort(end[0], is_target=end[1])

    async def _pump(self, reader, writer, *, counts):
        """Relay one direction; its end is the end of both."""
        with contextlib.suppress(OSError):
            while data := await reader.read(BLOCK):
                await self._open.wait()
                self._count(len(data) if counts else 0)
                writer.write(data)
                await writer.drain()
        self._abort(writer, is_target=counts)

    def _count(self, num_bytes):
        self.num_bytes += num_bytes
        if self.limit_bytes is not None and self.num_bytes > self.limit_bytes:
            self.cut()
