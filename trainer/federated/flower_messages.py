"""What travels over Flower: our own bytes in its records, so that any dtype does."""

import importlib
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from agent.rundir.chunks.payload import Payload
from agent.rundir.errors import RunDirError
from trainer.federated.messages import UNREADABLE, UpdateOffer
from trainer.federated.problem import Settings
from trainer.federated.transfer import Parcel

_MESSAGE, _CHUNKS = "message", "chunks"
_BYTES = "opsdash.chunk"
_T = TypeVar("_T")


class Question(msgspec.Struct, frozen=True, tag="question"):
    """Whose node is this?"""


class Introduction(msgspec.Struct, frozen=True, tag="introduction"):
    """It is this client's."""

    client: str


class Assignment(msgspec.Struct, frozen=True, kw_only=True):
    """A round to train, beside the chunks of the model."""

    client: str
    """As the node introduced itself."""
    run_id: str
    attempt: int
    round_num: int
    digest: str
    layout: str
    settings: Settings
    acked_round: int | None
    """Last round that has this client among its members; None: none has."""
    is_last: bool
    restored_round: int | None = None
    """Last round that an operator restored; None: none."""


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What a node answers, beside the chunks that the server lacks."""

    client: str
    offer: UpdateOffer


def content(told: msgspec.Struct, payloads: Mapping[str, Payload]) -> Any:  # noqa: ANN401 - Flower's
    """Return a message's content: our own bytes, so that any dtype travels."""
    records = flower()
    chunks = {
        digest: records.Array(
            payload.dtype, (len(payload.data),), _BYTES, bytes(payload.data)
        )
        for digest, payload in payloads.items()
    }
    message = records.ConfigRecord({_MESSAGE: msgspec.msgpack.encode(told)})
    return records.RecordDict({_MESSAGE: message, _CHUNKS: records.ArrayRecord(chunks)})


def decode(message: Any, kind: type[_T]) -> _T:  # noqa: ANN401 - Flower's
    """Return what a message says beside its chunks.

    Raises:
        RunDirError: it says something else, or whoever was to answer failed.
    """
    if message.has_error():
        raise RunDirError(f"its app failed: {message.error.reason}")
    try:
        return msgspec.msgpack.decode(message.content[_MESSAGE][_MESSAGE], type=kind)
    except (*UNREADABLE, KeyError, TypeError) as error:
        raise RunDirError(f"a peer sent something else: {error}") from error


def receive(message: Any, parcel: Parcel) -> None:  # noqa: ANN401 - Flower's
    """Take a message's chunks, each one checked.

    Raises:
        RunDirError: one is missing or has other bytes.
    """
    try:
        arrays = [(d, a.dtype, a.data) for d, a in message.content[_CHUNKS].items()]
    except (KeyError, TypeError, AttributeError) as error:
        raise RunDirError(f"a peer sent no chunks: {error!r}") from error
    for digest, dtype, data in arrays:
        parcel.receive(Payload(digest, dtype, data))
    if parcel.lacking:
        raise RunDirError(f"{len(parcel.lacking)} chunks did not arrive")


def flower() -> Any:  # noqa: ANN401 - an extra, whose types need not be there
    """Return `flwr.app`.

    Raises:
        RunDirError: it is not installed.
    """
    try:
        return importlib.import_module("flwr.app")
    except ModuleNotFoundError as error:
        raise RunDirError(
            "Flower is not installed", hint="pip install 'opsdash[train,flower]'"
        ) from error
