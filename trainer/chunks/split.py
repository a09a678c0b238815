"""Cut a model into chunks.

`TensorSplit` never crosses a tensor, so a tensor that did not change keeps
its chunks whatever happens around it: if a tenth of every layer trains, a
tenth is stored. `FlatSplit` is the original ChunkManager's: a fixed number of
chunks of equal length over all elements in a row, where a single changed
element changes a whole chunk.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from agent.rundir.chunks.records import Part, TensorRow
from agent.rundir.chunks.schema import MAX_BLOB_BYTES

DEFAULT_CHUNK_BYTES = 1 << 20
DEFAULT_CHUNK_NUM = 10


@dataclass(frozen=True, slots=True)
class TensorSplit:
    """Chunks of a fixed size, never across tensors."""

    chunk_bytes: int = DEFAULT_CHUNK_BYTES
    """Rounded down to whole elements; the last chunk of a tensor is shorter."""

    def __post_init__(self) -> None:
        """Refuse sizes that SQLite cannot hold.

        Raises:
            ValueError: not between 16 bytes and 10^9.
        """
        if not 16 <= self.chunk_bytes <= MAX_BLOB_BYTES:
            raise ValueError(f"chunk_bytes is {self.chunk_bytes}")

    def __str__(self) -> str:
        """Name the split as the store records it."""
        return f"tensor:{self.chunk_bytes}"

    def cut(self, rows: Sequence[TensorRow]) -> list[tuple[Part, ...]]:
        """Return the parts of each chunk; tied and empty tensors have none."""
        return [
            (part,)
            for row in rows
            if row.alias_of is None
            for part in _ranges(row, max(1, self.chunk_bytes // row.item_bytes))
        ]


@dataclass(frozen=True, slots=True)
class FlatSplit:
    """A fixed number of chunks over a flat index of all elements."""

    chunk_num: int = DEFAULT_CHUNK_NUM
    """More than there are elements is allowed: some chunks are then empty."""

    def __post_init__(self) -> None:
        """Refuse a split into nothing.

        Raises:
            ValueError: fewer than one chunk.
        """
        if self.chunk_num < 1:
            raise ValueError(f"chunk_num is {self.chunk_num}")

    def __str__(self) -> str:
        """Name the split as the store records it."""
        return f"flat:{self.chunk_num}"

    def cut(self, rows: Sequence[TensorRow]) -> list[tuple[Part, ...]]:
        """Return the parts of each chunk; lengths differ by one at most."""
        own = [row for row in rows if row.alias_of is None]
        total = sum(row.num_items for row in own)
        bounds = [total * i // self.chunk_num for i in range(self.chunk_num + 1)]
        chunks: list[list[Part]] = [[] for _ in range(self.chunk_num)]
        chunk_id = start = 0
        for row in own:
            end = start + row.num_items
            at = start
            while at < end:
                while bounds[chunk_id + 1] <= at:
                    chunk_id += 1
                stop = min(end, bounds[chunk_id + 1])
                chunks[chunk_id].append(_part(row, at - start, stop - start))
                at = stop
            start = end
        return [tuple(parts) for parts in chunks]


Split = TensorSplit | FlatSplit


def _ranges(row: TensorRow, items: int) -> Iterator[Part]:
    for start in range(0, row.num_items, items):
        yield _part(row, start, min(start + items, row.num_items))


def _part(row: TensorRow, start: int, end: int) -> Part:
    return Part(row.name, row.dtype, row.shape, start, end)
