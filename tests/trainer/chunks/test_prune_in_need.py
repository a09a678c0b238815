"""Pruning where the disk is full and stays so: it ends, and says what it did."""

import pytest

from agent.rundir.chunks.errors import StoreFullError
from tests.trainer.chunks.store_faults import (
    editing,
    same_tensors,
    small_model,
    store_path,
)
from trainer.chunks import retention
from trainer.chunks.store import ChunkStore

pytestmark = pytest.mark.timeout(30)


def no_room(*_):
    raise StoreFullError("no space left")


@pytest.fixture
def store(tmp_path, monkeypatch):
    """A store of three rounds whose file can only be shrunk with the ballast's room."""
    with ChunkStore.open(store_path(tmp_path)) as opened:
        for round_num in (1, 2, 3):
            opened.put_round(round_num, small_model(round_num))
        opened.settle()
        monkeypatch.setattr(retention, "give_back_space", no_room)
        yield opened


@pytest.mark.parametrize("digest", [None, b"\xff\x00", 7, "f" * 64])
def test_a_chunk_under_no_digest_at_all_keeps_no_prune_from_ending(
    store, monkeypatch, digest
):
    """Whatever a flipped bit made of its name, it goes like any that nobody needs."""
    drop = retention._drop_orphans
    # The first attempt meets the full disk before it can drop anything.
    monkeypatch.setattr(
        retention, "_drop_orphans", lambda conn, limit=0: drop(conn, limit)
    )
    with editing(store.path) as conn:
        conn.execute(
            "INSERT INTO chunk_data (chunk_hash, dtype, data) VALUES (?, '', x'00')",
            (digest,),
        )

    stats = store.prune(1)

    assert stats.rounds == (1, 2)
    assert same_tensors(store.get_round(3), small_model(3))
    assert store.stats().num_unique_chunks == len(store.layout(3).chunks)


def test_a_prune_counts_though_somebody_took_the_ballasts_room(store, monkeypatch):
    monkeypatch.setattr(retention, "keep_ballast", no_room)

    stats = store.prune(1)

    assert stats.rounds == (1, 2)
    assert [row.round_num for row in store.rounds()] == [3]
