"""Rebuild tensors from a round, as much of it as asked for, bit for bit.

Memory is allocated once per tensor and filled piece by piece while the chunks
are being checked; beyond the model only a few pieces are held. What a caller
gets is whole: an error, or a chunk with other bytes, leaves nothing behind.
"""

from collections.abc import Collection, Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor

from agent.rundir.chunks.errors import NoSuchTensorError
from agent.rundir.chunks.layout import RoundLayout
from agent.rundir.chunks.payload import Take
from agent.rundir.chunks.reader import ChunkStoreReader
from agent.rundir.chunks.records import OPTIMIZER, Buffer, ChunkSpec, TensorRow
from trainer.chunks.nested import put_together
from trainer.chunks.tensors import byte_view, empty_tensor


def load_tensors(
    reader: ChunkStoreReader, round_num: int, pattern: str | None = None
) -> dict[str, Tensor]:
    """Return a round's parameters and buffers on the CPU, by name.

    Args:
        reader: the node's store.
        round_num: which round.
        pattern: shell pattern over names (`conv*.weight`); None for all.

    Raises:
        NoSuchRoundError: the store does not hold the round.
        NoSuchTensorError: the pattern fits no name.
        MissingChunkError, DamagedChunkError: naming the chunk.
        DamagedStoreError: the round's rows are not those that were written.
    """
    layout = reader.layout(round_num)
    names = select_names(layout, pattern)
    return load_names(reader, round_num, layout, names)


def load_optimizer(reader: ChunkStoreReader, round_num: int) -> dict[str, Any] | None:
    """Return the optimizer's `state_dict` of a round; None if it has none.

    Raises:
        NoSuchRoundError, MissingChunkError, DamagedChunkError,
        DamagedStoreError: as for `load_tensors`.
        BadLayoutError: the state around the tensors cannot be read.
    """
    layout = reader.layout(round_num)
    if layout.optimizer is None:
        return None
    names = [row.name for row in layout.tensors if row.kind == OPTIMIZER]
    tensors = load_names(reader, round_num, layout, names)
    state: dict[str, Any] = put_together(layout.optimizer, tensors)
    return state


def select_names(layout: RoundLayout, pattern: str | None) -> list[str]:
    """Return the parameters and buffers whose names fit the pattern.

    Raises:
        NoSuchTensorError: none does.
    """
    names = [row.name for row in layout.tensors if row.kind != OPTIMIZER]
    if pattern is None:
        return names
    chosen = [name for name in names if fnmatchcase(name, pattern)]
    if not chosen:
        few = ", ".join(f"`{name}`" for name in names[:5])
        raise NoSuchTensorError(f"no tensor fits `{pattern}`; there are {few} …")
    return chosen


def load_names(
    reader: ChunkStoreReader,
    round_num: int,
    layout: RoundLayout,
    names: Collection[str],
) -> dict[str, Tensor]:
    """Return these tensors; tied ones share memory again.

    Raises:
        MissingChunkError, DamagedChunkError, NoSuchRoundError: as above.
        BadLayoutError: a tensor cannot be made by this torch.
    """
    rows = {row.name: row for row in layout.tensors}
    owners = {name: rows[name].alias_of or name for name in names}
    tensors = {owner: empty_tensor(rows[owner]) for owner in set(owners.values())}
    views = {name: byte_view(tensor) for name, tensor in tensors.items()}
    needed = [c for c in layout.chunks if any(p.name in views for p in c.parts)]
    reader.deliver(round_num, needed, lambda spec: _landing(spec, rows, views))
    return {name: tensors[owner] for name, owner in owners.items()}


def _landing(
    spec: ChunkSpec,
    rows: Mapping[str, TensorRow],
    views: Mapping[str, memoryview],
) -> Take:
    """Return what copies the pieces of a chunk to where its parts belong."""
    places: list[tuple[int, int, memoryview]] = []
    at = 0
    for part in spec.parts:
        item_bytes = rows[part.name].item_bytes
        first, last = part.flat_start * item_bytes, part.flat_end * item_bytes
        if part.name in views:
            places.append((at, at + last - first, views[part.name][first:last]))
        at += last - first

    def take(start: int, piece: Buffer) -> None:
        view, end = memoryview(piece), start + len(piece)
        for first, last, target in places:
            low, high = max(start, first), min(end, last)
            if low < high:
                target[low - first : high - first] = view[low - start : high - start]

    return take


def iter_pieces(
    spec: ChunkSpec, data: Buffer, rows: dict[str, TensorRow]
) -> Iterator[tuple[TensorRow, int, memoryview]]:
    """Yield what each part of a chunk holds.

    Yields:
        The tensor, the first byte of it that the part holds, the bytes.
    """
    view = memoryview(data)
    at = 0
    for part in spec.parts:
        row = rows[part.name]
        size = (part.flat_end - part.flat_start) * row.item_bytes
        yield row, part.flat_start * row.item_bytes, view[at : at + size]
        at += size
