"""Tell of chunks whose copy had rotted until a round that shares them was put.

The round's own bytes took the copy's place, so nothing is lost; that a disk
changes what lies on it is for somebody to know all the same.
"""

from agent.rundir.chunks.verify import Finding
from agent.rundir.events import ChunkDamaged, ChunkRepaired
from agent.session import Agent
from trainer.chunks.store import PutStats


def tell_mended_copies(agent: Agent, put: PutStats) -> None:
    """Tell of each that it was damaged in this process's store, and is not now."""
    store = agent.emitter.node
    for chunk in put.mended:
        agent.emit(
            ChunkDamaged,
            round_num=put.round_num,
            store=store,
            chunk=chunk.chunk_id,
            digest=chunk.digest,
            reason=Finding.DAMAGED.value,
        )
        agent.emit(
            ChunkRepaired,
            round_num=put.round_num,
            store=store,
            digest=chunk.digest,
            source=f"round {put.round_num}",
        )
