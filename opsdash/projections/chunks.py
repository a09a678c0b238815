"""The chunk stores of a federated run, as their owners report them.

What lies in a store is read from the store itself; this folds what its owner
said after each round and what was found damaged or repaired since.
"""

from collections import Counter, OrderedDict
from typing import NamedTuple

from agent.rundir.events import ChunkDamaged, ChunkRepaired, StoreStats
from opsdash.projections.batch import Origin
from opsdash.projections.plausible import MAX_NODES, clip, nanoseconds, whole

_MAX_DAMAGES = 4_096
_NOT_FEDERATED = (
    "this is a data-parallel run: its state is in checkpoints; federated runs keep "
    "each round in a chunk store"
)
_NO_STORE_YET = "no round was put into a store yet"


class StoreRow(NamedTuple):
    """One node's store after its newest round."""

    node: str
    round_num: int | None
    num_rounds: int | None
    num_chunks: int | None
    new_chunks: int | None
    new_bytes: int | None
    shared_bytes: int | None
    """Of the newest round, what other rounds hold too."""
    file_bytes: int | None
    put_ns: int | None
    num_failed: int
    """Rounds that could not be stored."""
    last_error: str | None
    num_damaged: int
    """Chunks found damaged and not repaired."""


class Damage(NamedTuple):
    """A chunk that is missing, or whose bytes are not what its digest says."""

    store: str
    chunk: int
    digest: str
    reason: str
    is_repaired: bool


class Chunks:
    """Folds `store_stats`, `chunk_damaged` and `chunk_repaired`."""

    def __init__(self) -> None:
        self._stores: dict[str, StoreRow] = {}
        self._damages: OrderedDict[tuple[str, str], Damage] = OrderedDict()

    def on_stats(self, origin: Origin, event: StoreStats) -> None:
        """Take in a store's figures after a round was put, or could not be."""
        row = self._stores.get(origin.stem)
        if row is None and len(self._stores) >= MAX_NODES:
            return
        self._stores[origin.stem] = _after(row or empty_row(origin.stem), event)

    def on_damaged(self, origin: Origin, event: ChunkDamaged) -> None:  # noqa: ARG002 - one signature for all folds
        """Take in a chunk that was found damaged."""
        key = (clip(event.store, 64), clip(event.digest, 100))
        damage = Damage(
            key[0],
            whole(event.chunk) or 0,
            key[1],
            clip(event.reason),
            is_repaired=False,
        )
        self._damages[key] = damage
        if len(self._damages) > _MAX_DAMAGES:
            self._damages.popitem(last=False)

    def on_repaired(self, origin: Origin, event: ChunkRepaired) -> None:  # noqa: ARG002 - one signature for all folds
        """Take in that sound bytes took a damaged chunk's place."""
        key = (clip(event.store, 64), clip(event.digest, 100))
        if key in self._damages:
            self._damages[key] = self._damages[key]._replace(is_repaired=True)

    def rows(self) -> list[StoreRow]:
        """Return the stores by node, damaged ones first."""
        damaged = Counter(
            one.store for one in self._damages.values() if not one.is_repaired
        )
        rows = [
            row._replace(num_damaged=damaged[node]) if node in damaged else row
            for node, row in self._stores.items()
        ]
        return sorted(rows, key=lambda row: (-row.num_damaged, row.node))

    def nodes(self) -> tuple[str, ...]:
        """Return the nodes that told of a store."""
        return tuple(sorted(self._stores))

    def damages(self) -> list[Damage]:
        """Return what was found damaged, unrepaired first."""
        return sorted(self._damages.values(), key=lambda damage: damage.is_repaired)

    def why_empty(self, kind: str | None) -> str | None:
        """Return why there is nothing to show; None: there is something."""
        if self._stores or self._damages:
            return None
        return _NO_STORE_YET if kind == "federated" else _NOT_FEDERATED


def empty_row(node: str) -> StoreRow:
    """Return the row of a store that nobody has told of yet."""
    return StoreRow(node, None, None, None, None, None, None, None, None, 0, None, 0)


def _after(row: StoreRow, event: StoreStats) -> StoreRow:
    if event.error:
        return row._replace(num_failed=row.num_failed + 1, last_error=clip(event.error))
    return row._replace(
        round_num=whole(event.round_num),
        num_rounds=whole(event.num_rounds),
        num_chunks=whole(event.num_chunks),
        new_chunks=whole(event.new_chunks),
        new_bytes=whole(event.new_bytes),
        shared_bytes=whole(event.shared_bytes),
        file_bytes=whole(event.file_bytes),
        put_ns=nanoseconds(event.put_ns),
    )
