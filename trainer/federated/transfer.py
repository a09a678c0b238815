"""A model as a layout and chunks: what to send, what is still lacking.

Chunks that arrived stay until the model is whole or another one is expected,
so that a transfer that breaks goes on where it stopped. Every chunk is checked
against its digest, and only chunks that the layout names are taken: a peer
cannot make this side keep more than the model's size.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from agent.rundir.chunks.layout import RoundLayout
from agent.rundir.chunks.payload import Payload
from agent.rundir.chunks.records import ChunkSpec, TensorRow
from agent.rundir.errors import RunDirError
from trainer.chunks.cut import CutRound
from trainer.chunks.snapshot import take_snapshot
from trainer.chunks.split import Split, TensorSplit
from trainer.chunks.tensors import byte_view, empty_tensor

_LAYOUT_SLACK_CHARS = 4096
"""Twice a small model's own layout may be less than another way to write it."""


class ForeignModelError(RunDirError):
    """A peer's model has other tensors than ours."""


class OverlongLayoutError(ForeignModelError):
    """A peer describes its model at greater length than our model needs."""


@dataclass(frozen=True)
class Packed:
    """A model ready to be sent. It holds its own bytes: the tensors may change."""

    layout: RoundLayout
    digest: str
    payloads: dict[str, Payload]
    """By digest."""
    nonfinite: tuple[str, ...]
    """Tensors with a NaN or an infinity."""

    @property
    def num_bytes(self) -> int:
        """Of all chunks, each counted once."""
        return sum(len(payload.data) for payload in self.payloads.values())


def pack(
    tensors: Mapping[str, Tensor],
    *,
    buffers: Collection[str] = (),
    split: Split | None = None,
) -> Packed:
    """Cut a model into chunks and copy their bytes.

    Raises:
        TypeError: a tensor is not dense.
    """
    snapshot = take_snapshot(tensors, buffers=buffers)
    with CutRound(snapshot, split or TensorSplit()) as cut:
        payloads = {
            chunk.digest: Payload(chunk.digest, chunk.dtype, b"".join(pieces or ()))
            for chunk, pieces in cut.iter_chunks()
        }
        layout = cut.layout()
    return Packed(layout, layout.digest(), payloads, snapshot.nonfinite)


@dataclass(frozen=True)
class Leftovers:
    """What of an update had travelled when its stream broke."""

    round_num: int = 0
    """0: there is nothing."""
    payloads: Mapping[str, Payload] = field(default_factory=dict)
    """By digest."""


@dataclass
class Parcel:
    """A model that is being received."""

    layout: RoundLayout
    _specs: dict[str, ChunkSpec] = field(init=False)
    _payloads: dict[str, Payload] = field(init=False, default_factory=dict)
    _received: dict[str, Payload] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self._specs = {chunk.digest: chunk for chunk in self.layout.chunks}

    @property
    def lacking(self) -> tuple[str, ...]:
        """Digests still to be fetched, in the layout's order."""
        return tuple(digest for digest in self._specs if digest not in self._payloads)

    @property
    def is_whole(self) -> bool:
        """Whether nothing is lacking; asked for every chunk that comes."""
        return len(self._payloads) == len(self._specs)

    @property
    def payloads(self) -> Mapping[str, Payload]:
        """What is here, by digest."""
        return self._payloads

    @property
    def received(self) -> Mapping[str, Payload]:
        """What came over the wire, in this stream or one before, by digest."""
        return self._received

    @property
    def num_received_bytes(self) -> int:
        """Of chunks that came over the wire, not of those that were here."""
        return sum(len(payload.data) for payload in self._received.values())

    def reuse(self, known: Mapping[str, Payload]) -> None:
        """Take over chunks that are here already; their bytes were checked before."""
        self._payloads |= self._wanted_of(known)

    def resume(self, received: Mapping[str, Payload]) -> None:
        """Go on with what a broken stream had received of the same model."""
        wanted = self._wanted_of(received)
        self._payloads |= wanted
        self._received |= wanted

    def _wanted_of(self, known: Mapping[str, Payload]) -> dict[str, Payload]:
        found = (known[digest] for digest in self.lacking if digest in known)
        return {one.digest: one for one in found if self._is_described(one)}

    def receive(self, payload: Payload) -> bool:
        """Take a chunk from a peer; False: not asked for, or here already.

        Raises:
            ForeignModelError: its bytes do not have its digest.
        """
        if payload.digest not in self._specs or payload.digest in self._payloads:
            return False
        if not self._is_described(payload) or not payload.is_sound():
            raise ForeignModelError(
                f"chunk `{payload.digest[:12]}` was received with other bytes"
            )
        self._payloads[payload.digest] = payload
        self._received[payload.digest] = payload
        return True

    def _is_described(self, payload: Payload) -> bool:
        """Whether it is of the dtype and size that the layout gives it."""
        spec = self._specs[payload.digest]
        return (payload.dtype, len(payload.data)) == (spec.dtype, spec.size_bytes)

    def unpack(self) -> dict[str, Tensor]:
        """Return the tensors, once nothing is lacking; tied ones share memory."""
        assert self.is_whole, "chunks are lacking"
        rows = {row.name: row for row in self.layout.tensors}
        own = {
            name: empty_tensor(row)
            for name, row in rows.items()
            if row.alias_of is None
        }
        views = {name: byte_view(tensor) for name, tensor in own.items()}
        for spec in self.layout.chunks:
            _fill(views, rows, spec, memoryview(self._payloads[spec.digest].data))
        return {name: own[row.alias_of or name] for name, row in rows.items()}


def read_layout(text: str, expected: RoundLayout, whose: str) -> RoundLayout:
    """Read how a peer describes the model that was agreed on.

    Its chunks may be cut otherwise than ours. How long the text may be follows
    from our own: read, it takes many times its length in memory.

    Args:
        text: As the peer sent it.
        expected: What the model has to look like.
        whose: The peer, in words.

    Raises:
        OverlongLayoutError: it is too long; nothing of it was read.
        BadLayoutError: it is not a layout.
        ForeignModelError: naming the first tensor that differs.
    """
    most = 2 * len(expected.to_json()) + _LAYOUT_SLACK_CHARS
    if len(text) > most:
        raise OverlongLayoutError(
            f"{whose} describes its model in {len(text):,} characters, "
            f"expected {most:,} at most"
        )
    layout = RoundLayout.from_json(text)
    check_same_tensors(expected, layout)
    return layout


def check_same_tensors(expected: RoundLayout, found: RoundLayout) -> None:
    """Make sure that a peer describes the model that was agreed on.

    Checked before any memory is asked for.

    Raises:
        ForeignModelError: naming the first tensor that differs.
    """
    mine, theirs = _shapes(expected), _shapes(found)
    for name in sorted(mine.keys() | theirs.keys()):
        if mine.get(name) != theirs.get(name):
            raise ForeignModelError(
                f"tensor `{name}` is {_told(theirs.get(name))}, "
                f"expected {_told(mine.get(name))}"
            )
    sizes = {row.name: row.num_bytes for row in expected.tensors}
    for row in found.tensors:
        if row.num_bytes != sizes[row.name]:
            raise ForeignModelError(
                f"tensor `{row.name}` has {row.num_bytes:,} bytes, "
                f"expected {sizes[row.name]:,}"
            )


_Shape = tuple[str, tuple[int, ...], str | None]


def _shapes(layout: RoundLayout) -> dict[str, _Shape]:
    return {row.name: (row.dtype, row.shape, row.alias_of) for row in layout.tensors}


def _told(shape: _Shape | None) -> str:
    return "not there" if shape is None else f"{shape[0]} {list(shape[1])}"


def _fill(
    views: Mapping[str, memoryview],
    rows: Mapping[str, TensorRow],
    spec: ChunkSpec,
    data: memoryview,
) -> None:
    at = 0
    for part in spec.parts:
        item_bytes = rows[part.name].item_bytes
        start, end = part.flat_start * item_bytes, part.flat_end * item_bytes
        views[part.name][start:end] = data[at : at + end - start]
        at += end - start
