import pytest

from agent.rundir.chunks.errors import DamagedChunkError
from agent.rundir.chunks.reader import ChunkStoreReader
from tests.trainer.chunks.store_faults import (
    flip_bit,
    same_tensors,
    small_model,
    store_path,
)
from trainer.chunks.repair import repair_store
from trainer.chunks.split import TensorSplit
from trainer.chunks.store import ChunkStore

SPLIT = TensorSplit(4096)


@pytest.fixture
def layout(store):
    store.put_round(1, small_model(), split=SPLIT)
    return store.layout(1)


def find_by_reading_the_round(store, _digest):
    with pytest.raises(DamagedChunkError):
        store.get_round(1)


def find_by_reading_the_chunk(store, digest):
    with pytest.raises(DamagedChunkError):
        store.get_chunk(digest)


def find_by_verifying(store, _digest):
    with store.reader() as reader:
        assert not reader.verify().is_sound


def find_by_committing(store, _digest):
    with pytest.raises(DamagedChunkError):
        store.commit_round(2, store.layout(1))


@pytest.mark.parametrize(
    "find",
    [
        find_by_reading_the_round,
        find_by_reading_the_chunk,
        find_by_verifying,
        find_by_committing,
    ],
)
def test_a_chunk_that_is_known_to_be_damaged_is_asked_for(store, path, layout, find):
    digest = layout.chunks[3].digest
    flip_bit(path, digest)

    find(store, digest)

    assert store.lacking(layout) == [digest]


def test_a_sound_copy_that_was_asked_for_ends_the_damage(store, path, layout, tmp_path):
    digest = layout.chunks[3].digest
    with ChunkStore.open(store_path(tmp_path, "client-1")) as other:
        other.put_round(1, small_model(), split=SPLIT)
        sound = other.get_chunk(digest)
    flip_bit(path, digest)
    find_by_committing(store, digest)

    num_new = store.put_chunks([sound], round_num=2)

    assert (num_new, store.lacking(layout)) == (1, [])
    store.commit_round(2, layout)
    assert same_tensors(store.get_round(2), small_model())


def test_a_chunk_that_another_process_mended_is_there_again(
    store, path, layout, tmp_path
):
    digest = layout.chunks[3].digest
    other = store_path(tmp_path, "client-1")
    with ChunkStore.open(other) as sound:
        sound.put_round(1, small_model(), split=SPLIT)
    flip_bit(path, digest)
    find_by_reading_the_chunk(store, digest)

    repair_store(path, sources=[other])

    assert store.lacking(layout) == []


def test_a_reader_remembers_what_its_verification_found(path, store, layout):
    digest = layout.chunks[3].digest
    flip_bit(path, digest)

    with ChunkStoreReader(path) as reader:
        before = reader.has([digest])
        reader.verify()

        assert (before, reader.has([digest])) == ({digest}, set())


def test_no_bytes_are_read_where_no_damage_is_known(
    store, path, layout, tmp_path, monkeypatch
):
    flip_bit(path, layout.chunks[3].digest)
    monkeypatch.setattr(
        "agent.rundir.chunks.payload.PayloadReader.fetch",
        lambda *_: pytest.fail("a chunk was read"),
    )

    assert store.lacking(layout) == []
