import shlex

import pytest
import torch

from agent.rundir.chunks.errors import DamagedChunkError, MissingChunkError
from agent.rundir.chunks.reader import ChunkStoreReader
from agent.rundir.chunks.verify import Finding
from tests.trainer.chunks.store_faults import (
    break_chain,
    damage_index,
    editing,
    flip_bit,
    lose_chunk,
    same_tensors,
    small_model,
    store_path,
)
from trainer.chunks import repair
from trainer.chunks.commands import repair_main
from trainer.chunks.repair import repair_store
from trainer.chunks.split import TensorSplit
from trainer.chunks.store import ChunkStore

SPLIT = TensorSplit(4096)


@pytest.fixture
def path(tmp_path):
    """A server's store; client-2 holds the same model, client-1 another."""
    for node, seed in (("server", 0), ("client-1", 1), ("client-2", 0)):
        with ChunkStore.open(store_path(tmp_path, node)) as store:
            store.put_round(1, small_model(seed), split=SPLIT)
    return store_path(tmp_path)


def chunks_of(path):
    with ChunkStoreReader(path) as reader:
        return reader.layout(1).chunks


def test_errors_say_who_still_has_it_and_how_to_get_it(path):
    chunk = chunks_of(path)[5]
    lose_chunk(path, chunk.digest)

    with ChunkStore.open(path) as store, pytest.raises(MissingChunkError) as caught:
        store.get_round(1)

    assert "also held by `client-2` (round 1)" in str(caught.value)
    assert [source.node for source in caught.value.elsewhere] == ["client-2"]
    program, arguments = caught.value.hint.split(" repair ")
    assert program == "python -m trainer"
    assert repair_main(shlex.split(arguments)) == 0
    with ChunkStore.open(path) as store:
        assert same_tensors(store.get_round(1), small_model())


def test_damaged_and_missing_chunks_are_taken_from_another_node(path, tmp_path):
    chunks = chunks_of(path)
    flip_bit(path, chunks[3].digest)
    lose_chunk(path, chunks[6].digest)

    report = repair_store(path)

    assert {repaired.digest for repaired in report.repaired} == {
        chunks[3].digest,
        chunks[6].digest,
    }
    assert {repaired.taken_from for repaired in report.repaired} == {
        store_path(tmp_path, "client-2")
    }
    assert report.left == ()
    with ChunkStore.open(path) as store:
        assert same_tensors(store.get_round(1), small_model())


def test_a_sound_store_is_left_alone(path):
    before = path.read_bytes()

    report = repair_store(path)

    assert (report.repaired, report.left) == ((), ())
    assert path.read_bytes() == before


def test_what_nobody_has_is_named_and_the_rest_is_mended(path, tmp_path):
    chunks = chunks_of(path)
    lose_chunk(path, chunks[3].digest)
    lose_chunk(path, chunks[6].digest)
    lose_chunk(store_path(tmp_path, "client-2"), chunks[3].digest)

    report = repair_store(path)

    assert [repaired.digest for repaired in report.repaired] == [chunks[6].digest]
    assert [left.place.digest for left in report.left] == [chunks[3].digest]


def test_a_damaged_copy_is_no_cure(path, tmp_path):
    digest = chunks_of(path)[3].digest
    flip_bit(path, digest)
    flip_bit(store_path(tmp_path, "client-2"), digest, byte=7)

    report = repair_store(path)

    assert report.repaired == ()
    with ChunkStore.open(path) as store, pytest.raises(DamagedChunkError):
        store.get_round(1)


def test_chunks_can_come_from_any_database(path, tmp_path):
    digest = chunks_of(path)[3].digest
    moved = tmp_path / "backup.db"
    store_path(tmp_path, "client-2").rename(moved)
    lose_chunk(path, digest)

    assert repair_store(path).repaired == ()
    assert [r.taken_from for r in repair_store(path, [moved]).repaired] == [moved]


def test_a_source_that_cannot_be_read_is_passed_over(path, tmp_path):
    digest = chunks_of(path)[3].digest
    lose_chunk(path, digest)
    store_path(tmp_path, "client-1").write_bytes(b"garbage" * 99)

    assert len(repair_store(path).repaired) == 1


def test_a_damaged_chunk_that_no_round_names_is_deleted(path):
    digest = chunks_of(path)[3].digest
    with editing(path) as conn:
        conn.execute(
            "UPDATE chunk_data SET chunk_hash = ? WHERE chunk_hash = ?",
            ("f" * 64, digest),
        )

    report = repair_store(path)

    assert report.num_dropped == 1
    assert [repaired.digest for repaired in report.repaired] == [digest]
    with ChunkStoreReader(path) as reader:
        assert reader.verify().is_sound


def test_rows_that_were_changed_cannot_be_mended(path):
    with editing(path) as conn:
        conn.execute("UPDATE tensors SET name = 'x'")

    report = repair_store(path)

    assert [left.finding for left in report.left] == [Finding.BAD_ROUND]


def test_an_index_that_does_not_fit_is_made_again(path):
    damage_index(path, chunks_of(path)[5].digest)
    with ChunkStoreReader(path) as reader:
        findings = {finding.finding for finding in reader.verify().findings}

    report = repair_store(path)

    assert Finding.BAD_STRUCTURE in findings
    assert (report.repaired, report.left) == ((), ())
    with ChunkStore.open(path) as store:
        store.put_round(2, small_model(7), split=SPLIT)
        store.prune(2)
        assert same_tensors(store.get_round(1), small_model())


@pytest.mark.parametrize("pointer", [b"\xff" * 4, b"\x00\x00\xff\xff", b"\0" * 4])
def test_a_chunk_whose_place_is_damaged_does_not_stop_the_others(tmp_path, pointer):
    model = {"big": torch.arange(200_000.0), "small": torch.arange(9.0)}
    for node in ("server", "client-1"):
        with ChunkStore.open(store_path(tmp_path, node)) as store:
            store.put_round(1, model)
            small = store.layout(1).chunks[-1]
    path = store_path(tmp_path)
    lose_chunk(path, small.digest)
    break_chain(path, model["big"][100_000:100_009].numpy().tobytes(), pointer)

    report = repair_store(path)

    assert small.digest in {repaired.digest for repaired in report.repaired}
    with ChunkStore.open(path) as store:
        assert torch.equal(store.get_round(1, "small")["small"], model["small"])


def test_a_cancelled_repair_writes_nothing(path):
    lose_chunk(path, chunks_of(path)[3].digest)
    before = path.read_bytes()

    repair_store(path, is_cancelled=lambda: True)

    assert path.read_bytes() == before


@pytest.fixture
def meanwhile(monkeypatch):
    """Let something happen between a repair's look at a store and its writing."""

    def arrange(happens):
        collect = repair._collect

        def collect_and_wait(findings, sources):
            found = collect(findings, sources)
            happens()
            return found

        monkeypatch.setattr(repair, "_collect", collect_and_wait)

    return arrange


def test_a_chunk_whose_round_is_pruned_meanwhile_is_not_put_back(path, meanwhile):
    lose_chunk(path, chunks_of(path)[3].digest)
    with ChunkStore.open(path) as store:
        meanwhile(lambda: store.put_round(2, small_model(5), keep_rounds=1))

        report = repair_store(path)

        assert (report.repaired, report.left) == ((), ())
        num_chunks = len(store.layout(2).chunks)
        assert store.stats().num_unique_chunks == num_chunks


def test_a_damaged_chunk_that_a_round_names_meanwhile_is_not_deleted(path, meanwhile):
    model, extra = small_model(), {"extra": torch.arange(9.0)}
    with ChunkStore.open(path) as store:
        store.put_round(2, model | extra, split=SPLIT)
        (digest,) = {c.digest for c in store.layout(2).chunks} - {
            c.digest for c in store.layout(1).chunks
        }
        with editing(path) as conn:
            conn.execute("DELETE FROM chunk_metadata WHERE chunk_hash = ?", (digest,))
        flip_bit(path, digest)
        meanwhile(lambda: store.put_round(3, model | extra, split=SPLIT))

        report = repair_store(path)

        assert report.num_dropped == 0
        assert store.has([digest]) == {digest}


def test_a_live_store_can_be_repaired(path):
    with ChunkStore.open(path) as store:
        digest = store.layout(1).chunks[3].digest
        flip_bit(path, digest)

        repair_store(path)

        store.put_round(2, small_model(5))
        assert same_tensors(store.get_round(1), small_model())
