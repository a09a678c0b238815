"""A client by hand, that may say whatever it likes."""

import contextlib

import msgspec

from trainer.federated.messages import (
    PROTOCOL,
    Hello,
    Model,
    Ready,
    Report,
    Task,
    UpdateOffer,
    Welcome,
    decode_from_server,
    encode,
)
from trainer.federated.security import ClientSecurity, Endpoint
from trainer.federated.transport import connect


class Hostile:
    """One stream of a client that was let in."""

    def __init__(self, link):
        self._link = link

    async def say(self, message):
        await self._link.write(encode(message))

    async def hear(self, kind):
        """Return the next message of a kind, and forget those before it."""
        while (data := await self._link.read()) is not None:
            message = decode_from_server(data)
            if isinstance(message, kind):
                return message
        return None

    async def greet(self, session="session"):
        """Say hello; return the model that is told then."""
        await self.say(Hello(PROTOCOL, session))
        assert await self.hear(Welcome)
        return await self.hear(Model)

    async def be_asked(self):
        """Return the model and what is to be trained, once a round is open."""
        model = await self.greet()
        await self.say(Ready())
        return model, await self.hear(Task)


@contextlib.asynccontextmanager
async def hostile(server, key="mallory"):
    """Yield a stream to a server, as this client."""
    endpoint = Endpoint("127.0.0.1", server.port)
    async with connect(endpoint, ClientSecurity(), key) as link:
        yield Hostile(link)


def offer(model, task, **changes):
    """Return the offer of an update that is the model itself."""
    made = UpdateOffer(
        round_num=task.round_num,
        attempt=task.attempt,
        base_digest=task.base_digest,
        layout=model.layout,
        report=Report(num_examples=1),
    )
    return msgspec.structs.replace(made, **changes)
