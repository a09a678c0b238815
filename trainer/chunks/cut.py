"""Turn a snapshot into chunks while they are being hashed on other threads.

Bytes stay where they are: a chunk is a list of views into the tensors. Chunks
come in order, each as soon as its digest is known, so that writing the first
ones and hashing the next go on at the same time.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

from agent.rundir.chunks.lanes import NUM_LANES
from agent.rundir.chunks.layout import RoundLayout
from agent.rundir.chunks.records import ChunkSpec, Part, chunk_digest, chunk_dtype
from agent.rundir.chunks.schema import MAX_BLOB_BYTES
from trainer.chunks.snapshot import Snapshot
from trainer.chunks.split import Split

_FEW_BYTES = 4 << 20
"""Below this, starting threads costs more than it saves."""

Pieces = tuple[memoryview, ...]


class RoundContent(Protocol):
    """What a round is made of, wherever it comes from."""

    def iter_chunks(self) -> Iterator[tuple[ChunkSpec, Pieces | None]]:
        """Yield the chunks in order; None for bytes that must be there already."""

    def layout(self) -> RoundLayout:
        """Return the whole layout, waiting for the last digest."""

    def size_bytes(self) -> int:
        """Return the bytes of all chunks without waiting."""


@dataclass(frozen=True)
class ReceivedRound:
    """A round whose chunks were received before."""

    received: RoundLayout

    def iter_chunks(self) -> Iterator[tuple[ChunkSpec, Pieces | None]]:
        """Yield the chunks in order, without bytes."""
        return ((chunk, None) for chunk in self.received.chunks)

    def layout(self) -> RoundLayout:
        """Return what was received."""
        return self.received

    def size_bytes(self) -> int:
        """Return 0: nothing is left to be written."""
        return 0


class CutRound:
    """A snapshot cut into chunks; use it in a `with` statement."""

    def __init__(self, snapshot: Snapshot, split: Split) -> None:
        """Cut, and start hashing.

        Raises:
            ValueError: a chunk would be larger than SQLite can hold.
        """
        self._snapshot = snapshot
        self._split = split
        self._layout: RoundLayout | None = None
        self._parts = split.cut(snapshot.rows)
        items = {row.name: row.item_bytes for row in snapshot.rows}
        self._pieces = [
            tuple(_view(snapshot, part, items[part.name]) for part in parts)
            for parts in self._parts
        ]
        _check_sizes(self._pieces, split)
        self._pool = ThreadPoolExecutor(NUM_LANES, "chunk-hash")
        self._digests = self._start_hashing()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # The tensors may change from now on: nobody may be reading them.
        self._pool.shutdown(cancel_futures=True)

    def iter_chunks(self) -> Iterator[tuple[ChunkSpec, Pieces | None]]:
        """Yield each chunk with its bytes as soon as it is hashed."""
        for chunk_id, parts in enumerate(self._parts):
            pieces = self._pieces[chunk_id]
            digest = self._digests[chunk_id]()
            spec = ChunkSpec(chunk_id, digest, chunk_dtype(parts), _size(pieces), parts)
            yield spec, pieces

    def layout(self) -> RoundLayout:
        """Return the layout, waiting for the last digest."""
        if self._layout is None:
            chunks = tuple(spec for spec, _ in self.iter_chunks())
            rows, optimizer = self._snapshot.rows, self._snapshot.optimizer
            self._layout = RoundLayout(str(self._split), rows, chunks, optimizer)
        return self._layout

    def size_bytes(self) -> int:
        """Return the bytes of all chunks, equal ones counted each time."""
        return sum(map(_size, self._pieces))

    def _start_hashing(self) -> list[Callable[[], str]]:
        dtypes = map(chunk_dtype, self._parts)
        work = zip(dtypes, self._pieces, strict=True)
        if self.size_bytes() >= _FEW_BYTES:
            return [self._pool.submit(chunk_digest, *chunk).result for chunk in work]
        return [_constant(chunk_digest(*chunk)) for chunk in work]


def _constant(digest: str) -> Callable[[], str]:
    return lambda: digest


def _view(snapshot: Snapshot, part: Part, item_bytes: int) -> memoryview:
    view = snapshot.views[part.name]
    return view[part.flat_start * item_bytes : part.flat_end * item_bytes]


def _size(views: Pieces) -> int:
    return sum(view.nbytes for view in views)


def _check_sizes(pieces: Sequence[Pieces], split: Split) -> None:
    largest = max(map(_size, pieces), default=0)
    if largest > MAX_BLOB_BYTES:
        raise ValueError(
            f"split `{split}` makes a chunk of {largest} bytes, SQLite holds "
            f"{MAX_BLOB_BYTES} at most"
        )
