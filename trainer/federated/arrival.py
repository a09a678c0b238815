"""The global model as it arrives at a client.

Chunks that are here already are not asked for again: those of the model
before, those of a transfer that broke off, those that the client's store has.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from agent.rundir.chunks.layout import RoundLayout
from agent.rundir.chunks.payload import Payload
from trainer.federated.messages import BadMessageError, Chunk, Model
from trainer.federated.transfer import Parcel, read_layout


@dataclass(frozen=True)
class Whole:
    """A global model that has arrived."""

    digest: str
    tensors: Mapping[str, Tensor]
    payloads: Mapping[str, Payload]


class Arrival:
    """Expects one model at a time."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self.whole: Whole | None = None
        """The newest model that is here."""
        self._digest = ""
        self._parcel: Parcel | None = None

    def is_whole(self, digest: str) -> bool:
        """Whether this model is here."""
        return self.whole is not None and self.whole.digest == digest

    def expect(self, model: Model, expected: RoundLayout) -> tuple[str, ...]:
        """Begin with a model; return which of its chunks are lacking.

        Raises:
            RunDirError: it is not described as it should be, or is another model.
        """
        layout = read_layout(model.layout, expected, "the server")
        if layout.digest() != model.digest:
            raise BadMessageError("the model's layout does not have its digest")
        parcel = Parcel(layout)
        parcel.reuse(self.whole.payloads if self.whole else {})
        parcel.reuse(self._parcel.payloads if self._parcel else {})
        self._digest, self._parcel = model.digest, parcel
        return parcel.lacking

    def reuse(self, known: Mapping[str, Payload]) -> tuple[str, ...]:
        """Take over chunks that were found elsewhere; return what is lacking."""
        assert self._parcel is not None, "no model is expected"
        self._parcel.reuse(known)
        return self._parcel.lacking

    def take(self, chunk: Chunk) -> bool:
        """Take a chunk from the server; True: it was the last one.

        Raises:
            RunDirError: its bytes do not have its digest.
        """
        parcel = self._parcel
        if parcel is None:
            return False
        is_new = parcel.receive(Payload(chunk.digest, chunk.dtype, chunk.data))
        return is_new and parcel.is_whole

    def give_up(self) -> None:
        """The model that was expected has been overtaken."""
        self._parcel = None

    async def unpack(self) -> None:
        """Make tensors of what has arrived; on another thread.

        Cancelled, it leaves the chunks for the next connection.
        """
        parcel, digest = self._parcel, self._digest
        assert parcel is not None, "no model is expected"
        tensors = await asyncio.to_thread(parcel.unpack)
        self._parcel = None
        self.whole = Whole(digest, tensors, parcel.payloads)
