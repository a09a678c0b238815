"""What travels between server and clients: MessagePack, tagged by kind.

Everything a peer sends is decoded into these types or refused. Tensors travel
as chunks by digest; a model is described by its layout, and whoever receives
one asks for the chunks that it lacks. Fields are added with a default.
"""

from typing import Annotated

import msgspec

from agent.rundir.errors import RunDirError

PROTOCOL = 1
"""Version of the conversation; both sides must speak the same."""

MAX_MESSAGE_BYTES = 64 << 20
"""A chunk is 1 MiB; the layout of a model with a million chunks fits."""

_Count = Annotated[int, msgspec.Meta(ge=0, le=2**62)]
"""Sums of two of them still fit into what stores and other readers take."""
_Text = Annotated[str, msgspec.Meta(max_length=1000)]
"""What goes into telemetry as it is: a peer must not fill a disk with it."""


UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What decoding raises: fields that nobody knows are skipped by recursion."""


class BadMessageError(RunDirError):
    """A peer sent something that is no message of this protocol."""


class Hello(msgspec.Struct, frozen=True, tag="hello"):
    """Client: a session begins. The first message of a stream."""

    protocol: int
    session: _Text
    """Random, new for each connection."""


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """Client: it has the current model and has dealt with what it missed."""


class Want(msgspec.Struct, frozen=True, tag="want"):
    """Both: send these chunks of what you described."""

    digests: tuple[str, ...]


class Chunk(msgspec.Struct, frozen=True, tag="chunk"):
    """Both: the bytes of one chunk."""

    digest: str
    dtype: str
    data: bytes


class Report(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How local training went."""

    num_examples: _Count
    """Distinct examples: the weight in the mean."""
    num_steps: _Count = 0
    loss: float | None = None
    """Mean over the round's local steps; None: not finite."""
    accuracy_frac: float | None = None
    """Of the client's own model, with its own buffers, on held-out examples."""
    compute_ns: _Count = 0
    """Local training, on the client's monotonic clock."""
    fetch_ns: _Count = 0
    """Waiting for chunks of the model, on the client's monotonic clock."""


class UpdateOffer(msgspec.Struct, frozen=True, kw_only=True, tag="update_offer"):
    """Client: this is what I trained; ask for what you lack."""

    round_num: int
    attempt: int
    base_digest: str
    layout: str
    """JSON of a `RoundLayout`."""
    report: Report


class Goodbye(msgspec.Struct, frozen=True, tag="goodbye"):
    """Client: it leaves on purpose."""

    reason: _Text


class Welcome(msgspec.Struct, frozen=True, kw_only=True, tag="welcome"):
    """Server: the answer to `Hello`."""

    protocol: int
    run_id: str
    attempt: int
    settings: msgspec.Raw
    """MessagePack of the run's `FederatedConfig`."""


class Model(msgspec.Struct, frozen=True, kw_only=True, tag="model"):
    """Server: the global model after a round was committed; after `Welcome` too."""

    round_num: _Count
    """Whose aggregate it is; 0: as initialised."""
    digest: str
    layout: str
    """JSON of a `RoundLayout`."""
    acked_round: int | None = None
    """Last round that has the receiving client among its members."""
    restored_round: int | None = None
    """Last round that an operator restored, in place of an average; None: none."""


class Task(msgspec.Struct, frozen=True, kw_only=True, tag="task"):
    """Server: train this round."""

    round_num: int
    attempt: int
    base_digest: str
    left_ns: int
    """Until the round's deadline when this was sent."""


class Verdict(msgspec.Struct, frozen=True, kw_only=True, tag="verdict"):
    """Server: what became of an update."""

    round_num: int
    refusal: str | None = None
    """None: it counts."""


class Over(msgspec.Struct, frozen=True, tag="over"):
    """Server: the federation has ended."""

    reason: str
    """`completed`, `stopped`, or `error`."""
    detail: str | None = None


FromClient = Hello | Ready | Want | Chunk | UpdateOffer | Goodbye
FromServer = Welcome | Model | Task | Want | Chunk | Verdict | Over
Message = FromClient | FromServer

_encoder = msgspec.msgpack.Encoder()
_from_client: msgspec.msgpack.Decoder[FromClient] = msgspec.msgpack.Decoder(FromClient)
_from_server: msgspec.msgpack.Decoder[FromServer] = msgspec.msgpack.Decoder(FromServer)


def encode(message: Message) -> bytes:
    """Return a message as it travels."""
    return _encoder.encode(message)


def decode_from_client(data: bytes) -> FromClient:
    """Read what a client sent.

    Raises:
        BadMessageError: it is something else.
    """
    try:
        return _from_client.decode(data)
    except UNREADABLE as error:
        raise BadMessageError(f"a client sent no message: {error}") from error


def decode_from_server(data: bytes) -> FromServer:
    """Read what the server sent.

    Raises:
        BadMessageError: it is something else.
    """
    try:
        return _from_server.decode(data)
    except UNREADABLE as error:
        raise BadMessageError(f"the server sent no message: {error}") from error
