"""What changed between two rounds of a store, tensor by tensor, by digests alone.

No bytes are read: chunks with equal digests are equal. Both rounds are walked
side by side, so that a million chunks need no memory; rounds that were cut
differently have nothing to be compared chunk by chunk.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from agent.rundir.chunks.reader import ChunkStoreReader
from agent.rundir.chunks.records import ChunkRow, Part
from agent.rundir.errors import RunDirError

_PAGE_ROWS = 1_000
_MAX_TENSORS = 100_000

SAME, CHANGED, ADDED, REMOVED = "same", "changed", "added", "removed"


class CutDifferentlyError(RunDirError):
    """The chunks of two rounds do not hold the same parts."""


@dataclass(slots=True)
class TensorChunks:
    """One tensor in two rounds."""

    name: str
    what: str
    """Its dtype and shape, in words."""
    num_chunks: int = 0
    """Chunks of the newer round that hold a part of it."""
    num_changed: int = 0
    changed_bytes: int = 0
    """Of those chunks, which may hold parts of other tensors too."""
    state: str = SAME


@dataclass(frozen=True)
class RoundsDiff:
    """Two rounds beside each other."""

    old_round: int
    new_round: int
    tensors: tuple[TensorChunks, ...]
    num_chunks: int
    num_changed: int
    changed_bytes: int


def diff_rounds(
    path: Path,
    old_round: int,
    new_round: int,
    is_cancelled: Callable[[], bool] = lambda: False,
) -> RoundsDiff:
    """Return which tensors have chunks that changed.

    Raises:
        CutDifferentlyError: a chunk of one round holds other parts in the other.
        RunDirError: the store cannot be read, or does not hold a round.
    """
    tensors: dict[str, TensorChunks] = {}
    num_chunks = num_changed = changed_bytes = 0
    with ChunkStoreReader(path) as reader:
        rounds = reader.round(old_round), reader.round(new_round)
        if rounds[0].split != rounds[1].split:
            raise CutDifferentlyError(
                f"rounds {old_round} and {new_round} were cut differently"
            )
        for old, new in _side_by_side(reader, old_round, new_round):
            if is_cancelled():
                break
            num_chunks += new is not None
            is_changed = old is None or new is None or old.digest != new.digest
            num_changed += is_changed
            size = 0 if new is None else new.size_bytes
            changed_bytes += size if is_changed else 0
            _count(tensors, old, new, is_changed=is_changed)
    return RoundsDiff(
        old_round,
        new_round,
        tuple(tensors.values()),
        num_chunks,
        num_changed,
        changed_bytes,
    )


def _side_by_side(
    reader: ChunkStoreReader, old_round: int, new_round: int
) -> Iterator[tuple[ChunkRow | None, ChunkRow | None]]:
    """Yield the chunks of both rounds by id; None where one has no such id."""
    start = 0
    while True:
        pages = [
            {row.chunk_id: row for row in reader.chunks(number, start, _PAGE_ROWS)}
            for number in (old_round, new_round)
        ]
        ids = sorted(pages[0].keys() | pages[1].keys())[:_PAGE_ROWS]
        if not ids:
            return
        for chunk_id in ids:
            yield pages[0].get(chunk_id), pages[1].get(chunk_id)
        start = ids[-1] + 1


def _count(
    tensors: dict[str, TensorChunks],
    old: ChunkRow | None,
    new: ChunkRow | None,
    *,
    is_changed: bool,
) -> None:
    if old is not None and new is not None and _names(old) != _names(new):
        raise CutDifferentlyError(
            f"chunk {new.chunk_id} holds other tensors in the two rounds"
        )
    row = new or old
    assert row is not None
    for part in {part.name: part for part in row.parts}.values():
        found = tensors.get(part.name)
        if found is None:
            if len(tensors) >= _MAX_TENSORS:
                return
            found = tensors[part.name] = TensorChunks(part.name, _words(part))
        found.num_chunks += new is not None
        if is_changed:
            found.num_changed += 1
            found.changed_bytes += row.size_bytes
            found.state = ADDED if old is None else REMOVED if new is None else CHANGED


def _names(row: ChunkRow) -> list[str]:
    return [part.name for part in row.parts]


def _words(part: Part) -> str:
    shape = " x ".join(map(str, part.shape[:8])) or "scalar"
    return f"{part.dtype} {shape}"
