"""The chunk store: what a round added to it, what was damaged and repaired.

Every node has a store of its own and writes of that one only.
"""

from agent.rundir.vocabulary.event import Event


class StoreStats(Event, frozen=True, tag_field="kind", tag="store_stats"):
    """The chunk store after a round was put."""

    num_rounds: int
    num_chunks: int
    new_chunks: int
    new_bytes: int
    shared_bytes: int
    file_bytes: int
    put_ns: int
    error: str | None = None


class ChunkDamaged(Event, frozen=True, tag_field="kind", tag="chunk_damaged"):
    """A chunk is missing, or its bytes are not what its digest says."""

    store: str
    chunk: int
    digest: str
    reason: str


class ChunkRepaired(Event, frozen=True, tag_field="kind", tag="chunk_repaired"):
    """A damaged chunk was replaced by sound bytes from elsewhere."""

    store: str
    digest: str
    source: str
