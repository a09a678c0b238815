"""What the original gets wrong, each shown there and right here."""

import sqlite3

import numpy as np
import pytest
import torch

from agent.rundir.chunks.errors import DamagedChunkError, MissingChunkError
from tests.trainer.chunks.original import OriginalStore
from tests.trainer.chunks.store_faults import flip_bit, lose_chunk
from trainer.chunks.split import FlatSplit, TensorSplit


@pytest.fixture
def original(tmp_path):
    return OriginalStore(tmp_path / "original.db")


def test_bfloat16_is_saved(original, store):
    model = {"w": torch.randn(100).to(torch.bfloat16)}
    with pytest.raises(TypeError):
        original.save(model, 1)

    store.put_round(1, model, split=FlatSplit(10))

    assert torch.equal(store.get_round(1)["w"], model["w"])


def test_a_large_counter_among_floats_is_exact(original, store):
    model = {"count": torch.tensor(2**53 + 1), "weight": torch.randn(30)}
    original.save(model, 1)
    assert original.load(1, model)["count"] != 2**53 + 1

    store.put_round(1, model, split=FlatSplit(10))

    loaded = store.get_round(1)["count"]
    assert (loaded.item(), loaded.dtype, loaded.shape) == (2**53 + 1, torch.int64, ())


def test_a_flipped_bit_is_an_error(original, store):
    model = {"w": torch.ones(1000)}
    original.save(model, 1)
    with sqlite3.connect(original.path) as conn:
        (data,) = conn.execute("SELECT data FROM chunk_data WHERE id = 1").fetchone()
        flipped = bytearray(data)
        flipped[-100] ^= 1
        conn.execute("UPDATE chunk_data SET data = ? WHERE id = 1", (bytes(flipped),))
    conn.close()
    assert not np.array_equal(original.load(1, model)["w"], model["w"].numpy())

    store.put_round(1, model, split=FlatSplit(10))
    flip_bit(store.path, store.layout(1).chunks[0].digest)

    with pytest.raises(DamagedChunkError, match="chunk 0 of round 1 at `server`"):
        store.get_round(1)


def test_a_missing_chunk_is_an_error(original, store):
    model = {"w": torch.arange(1.0, 1001)}
    original.save(model, 1)
    with sqlite3.connect(original.path) as conn:
        conn.execute("DELETE FROM chunk_data WHERE id = 4")
    conn.close()
    assert (original.load(1, model)["w"] == 0).sum() == 100

    store.put_round(1, model, split=FlatSplit(10))
    lose_chunk(store.path, store.layout(1).chunks[3].digest)

    with pytest.raises(MissingChunkError, match="chunk 3 of round 1 at `server`"):
        store.get_round(1)


def test_retention_gives_space_back(original, store):
    for round_num in range(1, 11):
        model = {"w": torch.randn(250_000)}
        original.save(model, round_num)
        store.put_round(round_num, model, keep_rounds=None)
    original.clean_up(1)

    store.prune(1)

    live = 1_000_000
    assert original.path.stat().st_size > 9 * live
    assert store.path.stat().st_size < 1.1 * live + 13 * 65536


def layers(num_layers, generator):
    """A tenth of every layer is a tensor of its own, as adapters are."""
    for i in range(num_layers):
        yield f"{i}.frozen", torch.randn(90_000, generator=generator)
        yield f"{i}.trained", torch.randn(10_000, generator=generator)


def stored_models(store, original, trained):
    """Train the named tensors for five rounds; return both sizes in models."""
    model = dict(layers(12, torch.Generator().manual_seed(0)))
    model_bytes = sum(tensor.nbytes for tensor in model.values())
    for round_num in range(1, 6):
        for name in trained:
            model[name] = model[name] + 1
        original.save(model, round_num)
        store.put_round(round_num, model)
    with sqlite3.connect(original.path) as conn:
        query = "SELECT sum(length(data)) FROM chunk_data"
        (original_bytes,) = conn.execute(query).fetchone()
    conn.close()
    return store.stats().unique_bytes / model_bytes, original_bytes / model_bytes


def test_a_tenth_of_every_layer_that_trains_is_all_that_is_stored(store, original):
    trained = [f"{i}.trained" for i in range(12)]

    ours, theirs = stored_models(store, original, trained)

    assert theirs > 4.9
    assert ours == pytest.approx(1.4)


def test_nine_tenths_that_are_frozen_in_one_piece_are_stored_once(store, original):
    names = list(dict(layers(12, torch.Generator())))
    trained = [*names[-2:], "10.trained"]

    ours, theirs = stored_models(store, original, trained)

    assert ours == pytest.approx(1 + 4 * (0.1 + 0.01) / 1.2, abs=0.01)
    assert ours < theirs


def test_a_tenth_of_every_tensor_that_trains_costs_whole_chunks_only(store):
    model = {f"{i}": torch.randn(100_000) for i in range(12)}
    model_bytes = sum(tensor.nbytes for tensor in model.values())
    for round_num in range(1, 6):
        for tensor in model.values():
            tensor[:10_000] += 1
        store.put_round(round_num, model, split=TensorSplit(40_000))

    assert store.stats().unique_bytes / model_bytes == pytest.approx(1.4)
