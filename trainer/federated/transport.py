"""One bidirectional gRPC stream per client, of whole messages as bytes.

The service is written by hand: one method, no generated code. Streams live as
long as both ends do; HTTP/2 pings find out about an end that went without a
word. Reconnecting is the caller's: gRPC's own back-off would wait minutes.
"""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from agent.rundir.errors import RunDirError
from trainer.federated.messages import MAX_MESSAGE_BYTES
from trainer.federated.quiet_grpc import aio, grpc
from trainer.federated.security import ClientSecurity, Endpoint, ServerSecurity

SERVICE = "opsdash.Federation"
METHOD = "Session"

PING_EVERY_S = 2.0
"""Between two pings on a stream, busy or idle."""
PING_LIMIT_S = 4.0
"""How long the answer may take before the other end counts as gone."""
CONNECT_LIMIT_S = 10.0
_MAX_METADATA_CHARS = 4096

_KEY = "opsdash-client"
_TOKEN = "opsdash-token"  # noqa: S105 - the header's name, not a token

_SHARED_OPTIONS = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.keepalive_time_ms", int(PING_EVERY_S * 1000)),
    ("grpc.keepalive_timeout_ms", int(PING_LIMIT_S * 1000)),
    # What counts since gRPC took over the timing of pings; a minute by default.
    ("grpc.http2.ping_timeout_ms", int(PING_LIMIT_S * 1000)),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
)
_SERVER_OPTIONS = (
    *_SHARED_OPTIONS,
    ("grpc.http2.min_ping_interval_without_data_ms", 1000),
    ("grpc.http2.max_ping_strikes", 0),
    # Two servers on one port would each get half of the clients.
    ("grpc.so_reuseport", 0),
)
_CLIENT_OPTIONS = (
    *_SHARED_OPTIONS,
    ("grpc.enable_retries", 0),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
)

_IDLE = grpc.ChannelConnectivity.IDLE
_CONNECTING = grpc.ChannelConnectivity.CONNECTING

_FINAL = {
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.UNIMPLEMENTED,
}


class DisconnectedError(RunDirError):
    """The stream ended or never came to be; trying again may help."""


class TurnedAwayError(RunDirError):
    """The server does not want this client; trying again does not help."""


class ListenError(RunDirError):
    """The server cannot listen there."""


class Link:
    """One stream, seen from either end."""

    def __init__(
        self,
        read: Callable[[], Awaitable[Any]],
        write: Callable[[bytes], Awaitable[None]],
    ) -> None:
        """Wrap the calls of one end."""
        self._read = read
        self._write = write

    async def read(self) -> bytes | None:
        """Return the next message; None: the other end has finished.

        Raises:
            DisconnectedError: the connection is gone.
            TurnedAwayError: the server refused this client.
        """
        with _translated():
            data = await self._read()
        return data if isinstance(data, bytes) else None

    async def write(self, data: bytes) -> None:
        """Send a message; waits while the other end does not read.

        Raises:
            DisconnectedError: the connection is gone.
        """
        with _translated():
            await self._write(data)


OnSession = Callable[[str, Link], Awaitable[None]]
"""Serves one stream of the client with this key, until it returns.

Raises TurnedAwayError to end it so that the client does not come back.
"""

OnRefused = Callable[[str, str], None]
"""Is told of a key whose token is not right, and the reason in words."""


class TransportServer:
    """Listens, checks who comes, and hands each stream to `on_session`."""

    def __init__(
        self,
        endpoint: Endpoint,
        security: ServerSecurity,
        on_session: OnSession,
        on_refused: OnRefused,
    ) -> None:
        """Prepare to listen; `start` does. Call it inside a running loop."""
        self._endpoint = endpoint
        self._security = security
        self._on_session = on_session
        self._on_refused = on_refused
        self._server = aio.server(options=_SERVER_OPTIONS)
        handler = grpc.stream_stream_rpc_method_handler(self._serve)
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(SERVICE, {METHOD: handler}),)
        )

    async def start(self) -> Endpoint:
        """Listen; return where, with the port that was found.

        Raises:
            ListenError: the address is taken or not this machine's.
        """
        address = str(self._endpoint)
        try:
            if self._security.certificate is None:
                port = self._server.add_insecure_port(address)
            else:
                pair = (self._security.private_key, self._security.certificate)
                credentials = grpc.ssl_server_credentials([pair])
                port = self._server.add_secure_port(address, credentials)
            await self._server.start()
        except RuntimeError as error:
            raise ListenError(
                f"cannot listen at `{address}`", hint=f"ss -ltnp | grep {address}"
            ) from error
        return self._endpoint._replace(port=port)

    async def stop(self, grace_s: float) -> None:
        """Take no more streams, and end those that are left after the grace."""
        await self._server.stop(grace_s)

    async def _serve(self, _requests: object, context: Any) -> None:  # noqa: ANN401 - gRPC has no types
        metadata = dict(context.invocation_metadata() or ())
        key = str(metadata.get(_KEY, ""))[:_MAX_METADATA_CHARS]
        token = metadata.get(_TOKEN)
        if not self._security.admits(key, token if isinstance(token, str) else None):
            refusal = f"no client `{ascii(key)[1:-1]}` with this token"
            self._on_refused(key, "its token is not that of this key")
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, refusal)
        try:
            await self._on_session(key, Link(context.read, context.write))
        except TurnedAwayError as error:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, str(error))


@contextlib.asynccontextmanager
async def connect(
    endpoint: Endpoint, security: ClientSecurity, key: str
) -> AsyncIterator[Link]:
    """Open a stream to the server for the length of a block.

    Raises:
        DisconnectedError: nobody answers there.
        TurnedAwayError: who answers is not whom the authority vouches for.
    """
    metadata = [(_KEY, key)]
    if security.token:
        metadata.append((_TOKEN, security.token))
    async with _channel(endpoint, security) as channel:
        try:
            await _wait_until_connected(channel, endpoint)
        except DisconnectedError:
            await _refuse_strangers(endpoint, security)
            raise
        call = channel.stream_stream(f"/{SERVICE}/{METHOD}")(metadata=metadata)

        async def read() -> object:
            message = await call.read()
            if message is aio.EOF and await call.code() in _FINAL:
                raise TurnedAwayError(await call.details())
            return message

        try:
            yield Link(read, call.write)
        finally:
            call.cancel()


async def _wait_until_connected(channel: aio.Channel, endpoint: Endpoint) -> None:
    """Take the first failure for an answer: the pause after it is the caller's."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(CONNECT_LIMIT_S):
            state = channel.get_state(try_to_connect=True)
            while state in (_IDLE, _CONNECTING):
                await channel.wait_for_state_change(state)
                state = channel.get_state(try_to_connect=True)
            if state is grpc.ChannelConnectivity.READY:
                return
    raise DisconnectedError(f"no server answers at `{endpoint}`")


async def _refuse_strangers(endpoint: Endpoint, security: ClientSecurity) -> None:
    """Find out whether a server is there whose certificate is not to be trusted.

    gRPC does not tell that from nobody being there, and it does not pass.

    Raises:
        TurnedAwayError: with what is wrong with the certificate.
    """
    if security.authority is None:
        return
    try:
        trusted = ssl.create_default_context(cadata=security.authority.decode())
        async with asyncio.timeout(CONNECT_LIMIT_S):
            _, writer = await asyncio.open_connection(*endpoint, ssl=trusted)
    except ssl.SSLCertVerificationError as error:
        raise TurnedAwayError(
            f"the certificate of `{endpoint}` is not trusted: {error.verify_message}",
            hint=f"openssl s_client -connect {endpoint}   # shows it; see --tls-ca",
        ) from error
    except (OSError, TimeoutError, ValueError):
        return
    writer.close()


def _channel(endpoint: Endpoint, security: ClientSecurity) -> Any:  # noqa: ANN401 - gRPC has no types
    if security.authority is None:
        return aio.insecure_channel(str(endpoint), options=_CLIENT_OPTIONS)
    credentials = grpc.ssl_channel_credentials(security.authority)
    return aio.secure_channel(str(endpoint), credentials, options=_CLIENT_OPTIONS)


@contextlib.contextmanager
def _translated() -> Any:  # noqa: ANN401 - a generator of nothing
    try:
        yield
    except aio.AioRpcError as error:
        if error.code() in _FINAL:
            raise TurnedAwayError(f"the server refused: {error.details()}") from error
        raise DisconnectedError(f"the connection is gone: {error.details()}") from error
    except (aio.UsageError, asyncio.InvalidStateError, grpc.RpcError) as error:
        raise DisconnectedError(f"the connection is gone: {error}") from error
