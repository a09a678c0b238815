import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch

from agent.rundir.chunks import connection
from agent.rundir.chunks.errors import (
    DamagedChunkError,
    ForeignStoreError,
    MissingChunkError,
    NewerStoreError,
    NoSuchRoundError,
    NoSuchTensorError,
    NotAChunkStoreError,
    RoundExistsError,
    StoreLockedError,
)
from agent.rundir.chunks.layout import BadLayoutError, RoundLayout
from agent.rundir.chunks.payload import Payload
from agent.rundir.chunks.records import chunk_digest
from tests.trainer.chunks.store_faults import (
    flip_bit,
    raw_bytes,
    same_tensors,
    small_model,
    store_path,
)
from trainer.chunks import database
from trainer.chunks.retention import tidy
from trainer.chunks.split import FlatSplit, TensorSplit
from trainer.chunks.store import ChunkStore


@pytest.mark.parametrize("split", [TensorSplit(), TensorSplit(64), FlatSplit(7)])
def test_a_round_comes_back_bit_for_bit(store, split):
    model = small_model()

    store.put_round(1, model, buffers=["bn.running_mean"], split=split)

    assert same_tensors(store.get_round(1), model)


def test_a_round_is_there_after_closing_and_opening(path):
    with ChunkStore.open(path) as store:
        store.put_round(1, small_model())

    with ChunkStore.open(path) as store:
        assert same_tensors(store.get_round(1), small_model())


def test_the_database_has_the_settings_and_names_that_are_promised(store, path):
    store.put_round(1, small_model())

    with sqlite3.connect(path) as conn:
        pragmas = {
            name: conn.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("page_size", "journal_mode", "auto_vacuum")
        }
        names = {row[0] for row in conn.execute("SELECT name FROM sqlite_master")}
    conn.close()

    assert pragmas == {"page_size": 65536, "journal_mode": "wal", "auto_vacuum": 2}
    assert {
        "chunk_metadata",
        "chunk_data",
        "idx_chunk_metadata_round",
        "idx_chunk_metadata_hash",
    } <= names


def test_the_writer_waits_for_the_disk_and_leaves_deleted_bytes(store):
    synchronous = store._conn.execute("PRAGMA synchronous").fetchone()[0]
    secure_delete = store._conn.execute("PRAGMA secure_delete").fetchone()[0]

    assert (synchronous, secure_delete) == (2, 0)


def test_a_digest_is_sha256_over_dtype_zero_byte_and_bytes(store):
    tensor = torch.arange(5, dtype=torch.int16)
    store.put_round(1, {"t": tensor})

    (chunk,) = store.layout(1).chunks

    assert chunk.digest == chunk_digest("int16", [raw_bytes(tensor)])


def test_equal_bytes_of_different_dtypes_are_different_chunks(store):
    store.put_round(1, {"a": torch.zeros(4), "b": torch.zeros(4, dtype=torch.int32)})

    assert store.stats().num_unique_chunks == 2


def test_what_did_not_change_is_stored_once(store):
    model = small_model()
    store.put_round(1, model)

    model["conv.bias"] = model["conv.bias"] + 1
    stats = store.put_round(2, model)

    assert (stats.num_new, stats.new_bytes) == (1, 32)
    assert stats.shared_bytes == stats.num_bytes - 32
    assert same_tensors(store.get_round(2), model)


def test_storing_a_round_again_changes_nothing(store):
    store.put_round(1, small_model(), members=["client-1"])
    before = store.rounds()

    stats = store.put_round(1, small_model(), members=["client-2"])

    assert stats.num_new == 0
    assert store.rounds() == before


def test_another_model_under_a_taken_number_is_refused(store):
    store.put_round(1, small_model())

    with pytest.raises(RoundExistsError, match="already holds round 1"):
        store.put_round(1, small_model(seed=1))

    assert same_tensors(store.get_round(1), small_model())


def test_another_model_takes_a_number_when_asked_to(store):
    store.put_round(1, small_model())

    store.put_round(1, small_model(seed=1), replace=True)

    assert same_tensors(store.get_round(1), small_model(seed=1))
    assert store.stats().num_unique_chunks == len(store.layout(1).chunks)


def test_a_round_knows_its_members(store):
    store.put_round(1, small_model(), members=["client-2", "client-1"])
    store.put_round(2, small_model())

    assert [row.members for row in store.rounds()] == [("client-2", "client-1"), None]


def test_parameters_and_buffers_are_told_apart(store):
    store.put_round(
        1,
        small_model(),
        buffers=["bn.running_mean", "bn.num_batches_tracked"],
        transient=["bn.running_mean"],
    )

    kinds = {row.name: row.kind for row in store.layout(1).tensors}

    assert kinds["conv.weight"] == "parameter"
    assert kinds["bn.num_batches_tracked"] == "buffer"
    assert kinds["bn.running_mean"] == "transient_buffer"


def test_a_buffer_that_is_no_tensor_is_a_mistake(store):
    with pytest.raises(ValueError, match="nowhere"):
        store.put_round(1, small_model(), buffers=["nowhere"])


def test_tensors_are_chosen_by_pattern(store):
    model = small_model()
    store.put_round(1, model)

    assert list(store.get_round(1, "conv.*")) == ["conv.weight", "conv.bias"]


def test_a_pattern_without_a_tensor_names_some(store):
    store.put_round(1, small_model())

    with pytest.raises(NoSuchTensorError, match=r"conv\.weight"):
        store.get_round(1, "nothing*")


def test_a_round_that_is_not_there_is_an_error_naming_those_that_are(store):
    store.put_round(4, small_model())

    with pytest.raises(NoSuchRoundError, match="round 9: it holds 4 to 4"):
        store.get_round(9)


def test_tied_tensors_are_stored_once_and_tied_again(store):
    weight = torch.randn(100, 100)
    stats = store.put_round(
        1, {"embed": weight, "head": weight, "copy": weight.clone()}
    )

    loaded = store.get_round(1)

    assert stats.new_bytes == 40_000
    assert loaded["embed"].data_ptr() == loaded["head"].data_ptr()
    assert loaded["embed"].data_ptr() != loaded["copy"].data_ptr()


def test_a_tied_tensor_alone_is_restored_too(store):
    weight = torch.randn(10)
    store.put_round(1, {"embed": weight, "head": weight})

    assert torch.equal(store.get_round(1, "head")["head"], weight)


def test_the_optimizer_comes_back_with_its_plain_values(store):
    weight = torch.nn.Parameter(torch.randn(4, 4))
    optimizer = torch.optim.AdamW([weight], lr=0.1, betas=(0.5, 0.75))
    weight.square().sum().backward()
    optimizer.step()

    store.put_round(1, {"weight": weight}, optimizer=optimizer.state_dict())
    loaded = store.get_optimizer(1)

    assert loaded["param_groups"] == optimizer.state_dict()["param_groups"]
    assert isinstance(loaded["param_groups"][0]["betas"], tuple)
    torch.optim.AdamW([weight]).load_state_dict(loaded)
    assert same_tensors(loaded["state"][0], optimizer.state_dict()["state"][0])
    assert list(store.get_round(1)) == ["weight"]


def test_a_round_without_an_optimizer_has_none(store):
    store.put_round(1, small_model())

    assert store.get_optimizer(1) is None


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16, torch.float16, torch.complex64]
)
def test_tensors_that_are_not_finite_are_named(store, bad, dtype):
    model = {"good": torch.ones(9, dtype=dtype), "bad": torch.ones(9, dtype=dtype)}
    model["bad"][4] = bad
    model["tied"] = model["bad"]

    stats = store.put_round(1, model)

    assert stats.nonfinite == ("bad", "tied")
    assert store.rounds()[0].has_nonfinite


def test_a_sum_that_overflows_is_no_infinity(store):
    stats = store.put_round(1, {"big": torch.full((8,), 3e38)})

    assert stats.nonfinite == ()


def test_state_is_committed_with_the_round_or_not_at_all(store):
    store.put_round(1, small_model(), state={"acknowledged": b"1"})

    with pytest.raises(RoundExistsError):
        store.put_round(1, small_model(seed=1), state={"acknowledged": b"2"})

    assert store.get_state("acknowledged") == b"1"


def test_state_can_be_set_alone(store):
    store.put_state({"a": b"\x00\xff"})

    assert store.get_state("a") == b"\x00\xff"
    assert store.get_state("b") is None


def test_a_round_travels_as_layout_and_chunks(store, tmp_path):
    model = small_model()
    sent = store.put_round(1, model, split=TensorSplit(512))
    text = store.layout(1).to_json()

    with ChunkStore.open(store_path(tmp_path, "client-1")) as other:
        layout = RoundLayout.from_json(text)
        other.put_chunks(
            (store.get_chunk(digest) for digest in other.lacking(layout)), round_num=1
        )
        received = other.commit_round(1, layout, members=["server"])

        assert received.digest == sent.digest
        assert same_tensors(other.get_round(1), model)


def test_a_broken_transfer_goes_on_where_it_stopped(store, tmp_path):
    store.put_round(5, small_model(), split=TensorSplit(512))
    layout = store.layout(5)
    path = store_path(tmp_path, "client-1")
    with ChunkStore.open(path) as other:
        half = other.lacking(layout)[::2]
        other.put_chunks(map(store.get_chunk, half), round_num=5)

    with ChunkStore.open(path) as other:
        # Rounds that are committed meanwhile do not throw the half away.
        other.put_round(4, small_model(seed=1), keep_rounds=1)
        other.prune(1)
        rest = other.lacking(layout)
        other.put_chunks(map(store.get_chunk, rest), round_num=5)
        other.commit_round(5, layout)

        assert not set(rest) & set(half)
        assert same_tensors(other.get_round(5), small_model())


def test_chunks_that_were_received_for_a_past_round_are_dropped(store):
    stray = torch.randn(64)
    payload = Payload(
        chunk_digest("float32", [raw_bytes(stray)]), "float32", raw_bytes(stray)
    )
    store.put_chunks([payload], round_num=2)

    store.put_round(3, small_model())

    assert store.has([payload.digest]) == set()


def test_received_bytes_must_have_their_digest(store):
    payload = Payload(chunk_digest("float32", [b"abcd"]), "float32", b"abce")

    with pytest.raises(DamagedChunkError, match="received with other bytes"):
        store.put_chunks([payload], round_num=1)

    assert store.stats().num_unique_chunks == 0


def test_a_round_is_not_committed_while_a_chunk_is_lacking(store, tmp_path):
    store.put_round(1, small_model())
    layout = store.layout(1)

    with ChunkStore.open(store_path(tmp_path, "client-1")) as other:
        with pytest.raises(MissingChunkError, match="never received") as caught:
            other.commit_round(1, layout)

        assert other.rounds() == []
    assert [source.node for source in caught.value.elsewhere] == ["server"]


def test_a_layout_with_a_gap_is_not_committed(store):
    store.put_round(1, small_model())
    layout = store.layout(1)

    with pytest.raises(BadLayoutError, match="is held up to"):
        store.commit_round(2, replace(layout, chunks=layout.chunks[:-1]))

    assert [row.round_num for row in store.rounds()] == [1]


def test_a_layout_cannot_give_bytes_another_meaning(store, tmp_path):
    store.put_round(1, {"w": torch.arange(4, dtype=torch.int32)})
    layout = store.layout(1)
    (row,), (chunk,) = layout.tensors, layout.chunks
    part = replace(chunk.parts[0], dtype="float32")
    lying = replace(
        layout,
        tensors=(replace(row, dtype="float32"),),
        chunks=(replace(chunk, dtype="float32", parts=(part,)),),
    )

    with ChunkStore.open(store_path(tmp_path, "client-1")) as other:
        other.put_chunks([store.get_chunk(chunk.digest)], round_num=1)
        with pytest.raises(BadLayoutError, match="not of the dtype"):
            other.commit_round(1, lying)

        assert other.rounds() == []


def test_a_second_writer_is_refused_while_the_first_writes(store, path, monkeypatch):
    monkeypatch.setattr(database, "WRITE_TIMEOUT_S", 0.05)
    with ChunkStore.open(path) as other:
        store._conn.execute("BEGIN IMMEDIATE")

        with pytest.raises(StoreLockedError, match="locked by another process"):
            other.put_round(1, small_model())

        store._conn.execute("ROLLBACK")
        other.put_round(1, small_model())


def test_a_round_waits_for_a_writer_that_takes_longer_than_readers_would(
    store, path, monkeypatch
):
    # Neither the tidying after a round nor a reader may change how long it waits.
    monkeypatch.setattr(connection, "BUSY_TIMEOUT_S", 0.05)
    store.put_round(1, small_model(1))
    with store.reader() as reader:
        assert reader.num_rounds == 1
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")

    with ThreadPoolExecutor(1) as pool:
        putting = pool.submit(store.put_round, 2, small_model(2))
        with pytest.raises(TimeoutError):
            putting.result(0.5)
        other.close()

        assert putting.result().num_new
    store.settle()
    (wait_ms,) = store._conn.execute("PRAGMA busy_timeout").fetchone()
    assert wait_ms == 60_000


def test_another_process_at_work_only_puts_off_the_tidying(store, path):
    store.put_round(1, {"w": torch.randn(100_000)})
    store.settle()
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("PRAGMA secure_delete=OFF").fetchone()
    other.execute("DELETE FROM chunk_data")  # leaves free pages to be given back
    other.execute("BEGIN IMMEDIATE")
    store._tidying = store._upkeep.submit(tidy, store._conn, path)

    store.settle()
    with_free_pages = path.stat().st_size
    other.close()
    store.put_round(2, small_model(), keep_rounds=1)
    store.settle()

    assert path.stat().st_size < with_free_pages
    assert same_tensors(store.get_round(2), small_model())


def test_threads_may_share_a_store(store):
    models = {number: small_model(seed=number) for number in range(1, 9)}
    threads = [
        threading.Thread(
            target=store.put_round, args=(number, model), kwargs={"keep_rounds": None}
        )
        for number, model in models.items()
    ]

    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert all(same_tensors(store.get_round(n), m) for n, m in models.items())


def test_a_reader_in_the_middle_of_a_round_does_not_stop_the_writer(store, path):
    model = {"w": torch.randn(100, 100)}
    store.put_round(1, model, split=TensorSplit(1024))

    with store.reader() as reader:
        chunks = reader.iter_chunks(1, reader.layout(1).chunks)
        next(chunks)
        store.put_round(2, small_model())
        store.settle()
        log_bytes_used = store._conn.execute("PRAGMA wal_checkpoint").fetchone()

        assert log_bytes_used[0] == 0
        assert log_bytes_used[1] == log_bytes_used[2]
        assert len(list(chunks)) == 39


def test_a_round_pruned_while_it_is_read_is_said_so(store):
    store.put_round(1, {"w": torch.randn(1000, 100)}, split=TensorSplit(1024))

    with store.reader() as reader:
        chunks = reader.iter_chunks(1, reader.layout(1).chunks)
        next(chunks)
        store.put_round(2, small_model(), keep_rounds=1)

        with pytest.raises(NoSuchRoundError, match="pruned while it was read"):
            list(chunks)


def test_a_damaged_chunk_is_named_with_round_chunk_and_tensor(store, path):
    store.put_round(3, small_model(), split=TensorSplit(1024))
    chunk = next(c for c in store.layout(3).chunks if c.parts[0].flat_start)
    store.close()
    flip_bit(path, chunk.digest)

    with (
        ChunkStore.open(path) as reopened,
        pytest.raises(DamagedChunkError) as caught,
    ):
        reopened.get_round(3)

    place = caught.value.place
    assert (place.node, place.round_num, place.chunk_id) == (
        "server",
        3,
        chunk.chunk_id,
    )
    assert place.tensors == (chunk.parts[0].name,)
    assert caught.value.elsewhere == ()


def test_a_file_that_is_no_database_is_not_written_to(path):
    path.parent.mkdir(parents=True)
    path.write_text("hello " * 1000)

    with pytest.raises(NotAChunkStoreError, match="not a SQLite database"):
        ChunkStore.open(path)

    assert path.read_text() == "hello " * 1000


def test_a_newer_store_is_not_written_to(store, path):
    store._conn.execute("PRAGMA user_version=99")
    store.close()

    with pytest.raises(NewerStoreError, match="schema 99"):
        ChunkStore.open(path)


def test_a_foreign_store_is_not_written_to(path):
    path.parent.mkdir(parents=True)
    with sqlite3.connect(path) as conn:
        conn.execute("CREATE TABLE chunk_metadata (round_num)")
        conn.execute("CREATE TABLE chunk_data (chunk_hash)")
    conn.close()

    with pytest.raises(ForeignStoreError, match="original ChunkManager"):
        ChunkStore.open(path)


def test_a_chunk_that_sqlite_cannot_hold_is_a_mistake(store, monkeypatch):
    monkeypatch.setattr("trainer.chunks.cut.MAX_BLOB_BYTES", 1000)

    with pytest.raises(ValueError, match="makes a chunk of 4000 bytes"):
        store.put_round(1, {"w": torch.zeros(1000)}, split=FlatSplit(1))


@pytest.mark.parametrize("round_num", [0, -1])
def test_rounds_are_counted_from_one(store, round_num):
    with pytest.raises(ValueError, match="round_num"):
        store.put_round(round_num, small_model())


def test_a_model_without_tensors_is_a_round_too(store):
    store.put_round(1, {})

    assert store.get_round(1) == {}


def test_closing_twice_is_fine(store):
    store.close()
    store.close()
