import threading

import pytest
import torch

from agent.rundir.chunks import lanes
from agent.rundir.chunks.errors import (
    DamagedChunkError,
    MissingChunkError,
    NoSuchRoundError,
)
from agent.rundir.chunks.reader import ChunkStoreReader
from agent.rundir.chunks.verify import Finding
from tests.trainer.chunks.store_faults import (
    flip_bit,
    lose_chunk,
    same_tensors,
    small_model,
    store_path,
)
from trainer.chunks.split import FlatSplit, TensorSplit
from trainer.chunks.store import ChunkStore

SPLITS = [TensorSplit(4096), FlatSplit(7)]


@pytest.fixture(autouse=True)
def everything_is_much(monkeypatch):
    """However small a store and however few the cores: several lanes."""
    monkeypatch.setattr(lanes, "_FEW_BYTES", 0)
    monkeypatch.setattr(lanes, "NUM_LANES", 3)


@pytest.fixture(params=SPLITS, ids=str)
def path(request, tmp_path):
    path = store_path(tmp_path)
    with ChunkStore.open(path) as store:
        store.put_round(1, small_model(), split=request.param)
    return path


def digests(path):
    with ChunkStoreReader(path) as reader:
        return [chunk.digest for chunk in reader.chunks(1)]


def num_lane_threads():
    return sum(t.name.startswith("chunk-lane") for t in threading.enumerate())


def test_a_round_comes_back_bit_for_bit(path):
    with ChunkStore.open(path) as store:
        assert same_tensors(store.get_round(1), small_model())


def test_a_chunk_that_is_read_in_pieces_comes_back_bit_for_bit(tmp_path):
    model = {"a": torch.randn(700_000), "b": torch.randn(333).to(torch.bfloat16)}
    for name, split in (("tensor", TensorSplit(1 << 21)), ("flat", FlatSplit(2))):
        with ChunkStore.open(store_path(tmp_path, name)) as store:
            store.put_round(1, model, split=split)

            assert same_tensors(store.get_round(1), model)
            assert same_tensors(store.get_round(1, "b"), {"b": model["b"]})


def test_chunks_come_in_order(path):
    with ChunkStoreReader(path) as reader:
        specs = reader.layout(1).chunks
        seen = [spec.chunk_id for spec, _ in reader.iter_chunks(1, specs)]

    assert seen == list(range(len(specs)))


def test_chunks_are_handed_over_beside_each_other_however_large(path, monkeypatch):
    monkeypatch.setattr(lanes, "_MAX_AHEAD_BYTES", 0)
    both = threading.Barrier(2, timeout=60)

    def taker(_spec):
        both.wait()
        return lambda _at, _piece: None

    with ChunkStoreReader(path) as reader:
        reader.deliver(1, reader.layout(1).chunks[:2], taker)

    assert not both.broken


def test_the_first_of_several_damaged_chunks_is_named(path):
    held = digests(path)
    flip_bit(path, held[5])
    lose_chunk(path, held[3])
    flip_bit(path, held[6])

    with ChunkStore.open(path) as store, pytest.raises(MissingChunkError) as caught:
        store.get_round(1)

    assert caught.value.place.chunk_id == 3
    assert num_lane_threads() == 0


@pytest.mark.parametrize("byte", [0, -1])
def test_a_flipped_bit_anywhere_is_an_error(path, byte):
    flip_bit(path, digests(path)[-1], byte=byte)

    with ChunkStore.open(path) as store, pytest.raises(DamagedChunkError):
        store.get_round(1)


def test_a_round_that_is_gone_is_said_so(path):
    with ChunkStoreReader(path) as reader:
        specs = reader.layout(1).chunks
        with ChunkStore.open(path) as store:
            store.put_round(2, small_model(seed=1), keep_rounds=1)

        with pytest.raises(NoSuchRoundError, match="pruned while it was read"):
            list(reader.iter_chunks(1, specs))


def test_verification_finds_what_is_damaged_and_what_is_missing(path):
    held = digests(path)
    flip_bit(path, held[1])
    lose_chunk(path, held[4])

    with ChunkStoreReader(path) as reader:
        report = reader.verify()

    found = {f.finding: f.place.digest for f in report.findings}
    assert found == {Finding.DAMAGED: held[1], Finding.MISSING: held[4]}
    assert report.num_chunks == len(set(held)) - 1


def test_whoever_stops_in_the_middle_leaves_nothing_behind(path):
    with ChunkStoreReader(path) as reader:
        chunks = reader.iter_chunks(1, reader.layout(1).chunks)
        next(chunks)

        chunks.close()

    assert num_lane_threads() == 0


def test_where_no_thread_can_be_had_those_that_run_are_ended_first(path, monkeypatch):
    begun, start = threading.Event(), threading.Thread.start
    num_started = iter(range(9))

    def start_one_only(thread):
        if next(num_started):
            assert begun.wait(60)
            raise RuntimeError("can't start new thread")
        start(thread)

    def taker(_spec):
        begun.set()
        return lambda _at, _piece: None

    monkeypatch.setattr(threading.Thread, "start", start_one_only)
    with ChunkStoreReader(path) as reader:
        specs = reader.layout(1).chunks * 1000
        with pytest.raises(RuntimeError, match="can't start"):
            reader.deliver(1, specs, taker)

        assert num_lane_threads() == 0
