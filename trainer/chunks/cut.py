"""Turn a snapshot into a layout and the bytes of its chunks, hashed.

Bytes stay where they are: a chunk is a list of views into the tensors.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from agent.rundir.chunks.layout import RoundLayout
from agent.rundir.chunks.payload import NUM_HASHERS
from agent.rundir.chunks.records import ChunkSpec, Part, chunk_digest, chunk_dtype
from agent.rundir.chunks.schema import MAX_BLOB_BYTES
from trainer.chunks.snapshot import Snapshot
from trainer.chunks.split import Split

_FEW_BYTES = 4 << 20
"""Below this, starting threads costs more than it saves."""

Pieces = tuple[memoryview, ...]


@dataclass(frozen=True)
class CutRound:
    """A layout with the bytes for each of its digests."""

    layout: RoundLayout
    pieces: dict[str, Pieces]
    """By digest: views that make up the chunk, one after the other."""
    nonfinite: tuple[str, ...]


def cut_round(snapshot: Snapshot, split: Split) -> CutRound:
    """Cut and hash a snapshot.

    Raises:
        ValueError: a chunk would be larger than SQLite can hold.
    """
    items = {row.name: row.item_bytes for row in snapshot.rows}
    cuts = split.cut(snapshot.rows)
    pieces = [
        tuple(_view(snapshot, part, items[part.name]) for part in parts)
        for parts in cuts
    ]
    _check_sizes(pieces, split)
    digests = _hash_all(cuts, pieces)
    chunks = tuple(
        ChunkSpec(chunk_id, digest, chunk_dtype(parts), _size(views), parts)
        for chunk_id, (parts, views, digest) in enumerate(
            zip(cuts, pieces, digests, strict=True)
        )
    )
    layout = RoundLayout(str(split), snapshot.rows, chunks, snapshot.optimizer)
    by_digest = dict(zip(digests, pieces, strict=True))
    return CutRound(layout, by_digest, snapshot.nonfinite)


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


def _hash_all(cuts: Sequence[tuple[Part, ...]], pieces: Sequence[Pieces]) -> list[str]:
    dtypes = [chunk_dtype(parts) for parts in cuts]
    if sum(map(_size, pieces)) < _FEW_BYTES:
        return list(map(chunk_digest, dtypes, pieces))
    with ThreadPoolExecutor(NUM_HASHERS, "chunk-hash") as pool:
        return list(pool.map(chunk_digest, dtypes, pieces))
