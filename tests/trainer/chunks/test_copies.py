"""A new round never leans on a copy that has rotted."""

import pytest
import torch

from agent.rundir.chunks.errors import DamagedChunkError, DamagedStoreError
from agent.rundir.chunks.reader import ChunkStoreReader
from tests.trainer.chunks.store_faults import (
    break_chain,
    editing,
    flip_bit,
    lose_chunk,
    raw_bytes,
    same_tensors,
    small_model,
    store_path,
)
from trainer.chunks.split import FlatSplit, TensorSplit
from trainer.chunks.store import ChunkStore

SPLIT = TensorSplit(4096)


def cut_short(path, digest):
    with editing(path) as conn:
        conn.execute(
            "UPDATE chunk_data SET data = substr(data, 2) WHERE chunk_hash = ?",
            (digest,),
        )


def as_text(path, digest):
    with editing(path) as conn:
        conn.execute(
            "UPDATE chunk_data SET data = 'rotten' WHERE chunk_hash = ?", (digest,)
        )


def in_a_codec_that_nobody_knows(path, digest):
    with editing(path) as conn:
        conn.execute(
            "UPDATE chunk_data SET codec = 'rotten' WHERE chunk_hash = ?", (digest,)
        )


def under_another_dtype(path, digest):
    with editing(path) as conn:
        conn.execute(
            "UPDATE chunk_data SET dtype = 'int8' WHERE chunk_hash = ?", (digest,)
        )


DAMAGES = [
    flip_bit,
    cut_short,
    as_text,
    in_a_codec_that_nobody_knows,
    under_another_dtype,
    lose_chunk,
]


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("split", [SPLIT, FlatSplit(10)])
def test_a_round_that_shares_a_damaged_chunk_puts_it_right(store, path, damage, split):
    model = small_model()
    store.put_round(1, model, split=split)
    damage(path, store.layout(1).chunks[1].digest)

    store.put_round(2, model, split=split)

    assert same_tensors(store.get_round(2), model)
    assert same_tensors(store.get_round(1), model)
    with ChunkStoreReader(path) as reader:
        assert reader.verify().is_sound


@pytest.mark.parametrize("where", [0, -1])
def test_every_byte_of_a_large_chunk_is_compared(store, path, where):
    model = {"w": torch.arange(300_000.0)}
    store.put_round(1, model)
    flip_bit(path, store.layout(1).chunks[-1].digest, byte=where)

    store.put_round(2, model)

    assert torch.equal(store.get_round(2)["w"], model["w"])


def test_chunks_that_were_put_right_are_not_counted_as_new(store, path):
    model = small_model()
    store.put_round(1, model, split=SPLIT)
    flip_bit(path, store.layout(1).chunks[1].digest)

    done = store.put_round(2, model, split=SPLIT)

    assert (done.num_new, done.new_bytes) == (0, 0)
    assert [chunk.chunk_id for chunk in done.mended] == [1]
    assert store.put_round(3, model, split=SPLIT).mended == ()


def test_a_round_that_is_put_again_is_put_right(store, path):
    model = small_model()
    store.put_round(1, model, split=SPLIT)
    chunks = store.layout(1).chunks
    flip_bit(path, chunks[1].digest)
    lose_chunk(path, chunks[3].digest)

    done = store.put_round(1, model, split=SPLIT)

    assert same_tensors(store.get_round(1), model)
    assert {chunk.chunk_id for chunk in done.mended} == {1, 3}


def test_sound_copies_are_not_written_again(store, path):
    model = small_model()
    store.put_round(1, model, split=SPLIT)
    store.close()

    with ChunkStore.open(path) as again:
        again.put_round(2, model, split=SPLIT)
        again.settle()
        written = path.with_name(f"{path.name}-wal").read_bytes()

    assert written
    assert raw_bytes(model["fc.weight"])[:4096] not in written


@pytest.mark.parametrize("pointer", [b"\xff" * 4, b"\x00\x00\xff\xff", b"\0" * 4])
def test_no_round_is_acknowledged_that_leans_on_pages_nobody_can_read(
    store, path, pointer
):
    model = {"w": torch.arange(200_000.0)}
    store.put_round(1, model)
    store.close()
    content = model["w"][100_000:100_009].numpy().tobytes()
    break_chain(path, content, pointer)

    with ChunkStore.open(path) as again:
        with pytest.raises(DamagedStoreError):
            again.put_round(2, model)

        assert [row.round_num for row in again.rounds()] == [1]


def test_a_received_round_does_not_refer_to_a_damaged_copy(store, tmp_path):
    model = small_model()
    store.put_round(1, model, split=SPLIT)
    layout = store.layout(1)
    damaged = layout.chunks[1].digest
    path = store_path(tmp_path, "client-1")
    with ChunkStore.open(path) as other:
        other.put_round(1, model, split=SPLIT)
        flip_bit(path, damaged)

        with pytest.raises(DamagedChunkError, match="also held by `server`"):
            other.commit_round(2, layout)
        num_new = other.put_chunks([store.get_chunk(damaged)], round_num=2)
        other.commit_round(2, layout)

        assert num_new == 1
        assert same_tensors(other.get_round(2), model)
