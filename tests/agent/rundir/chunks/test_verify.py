import pytest

from agent.rundir.chunks.reader import ChunkStoreReader
from agent.rundir.chunks.verify import Finding
from tests.trainer.chunks.store_faults import (
    damage_index,
    editing,
    flip_bit,
    lose_chunk,
    small_model,
    store_path,
)
from trainer.chunks.split import TensorSplit
from trainer.chunks.store import ChunkStore


@pytest.fixture
def path(tmp_path):
    path = store_path(tmp_path)
    with ChunkStore.open(path) as store:
        store.put_round(1, small_model(), split=TensorSplit(4096))
        store.put_round(2, small_model(seed=1), split=TensorSplit(4096))
    with ChunkStore.open(store_path(tmp_path, "client-1")) as store:
        store.put_round(9, small_model(), split=TensorSplit(4096))
    return path


def digests(path, round_num):
    with ChunkStoreReader(path) as reader:
        return [chunk.digest for chunk in reader.chunks(round_num)]


def test_a_sound_store_is_said_to_be_sound(path):
    with ChunkStoreReader(path) as reader:
        report = reader.verify()

        assert report.is_sound
        assert report.num_chunks == reader.stats().num_unique_chunks
        assert report.num_bytes == reader.stats().unique_bytes
        assert {row.num_damaged for row in reader.rounds()} == {0}
        assert {chunk.is_damaged for chunk in reader.chunks(1)} == {False}


def test_every_damaged_and_missing_chunk_is_found_and_placed(path):
    first, second = digests(path, 1), digests(path, 2)
    flip_bit(path, first[4], byte=100, bit=3)
    lose_chunk(path, second[2])

    with ChunkStoreReader(path) as reader:
        report = reader.verify()
        rounds = reader.rounds()
        chunks = reader.chunks(1)

    found = {finding.finding: finding for finding in report.findings}
    assert set(found) == {Finding.DAMAGED, Finding.MISSING}
    assert found[Finding.DAMAGED].place.digest == first[4]
    assert found[Finding.DAMAGED].rounds == (1,)
    assert [source.node for source in found[Finding.DAMAGED].elsewhere] == ["client-1"]
    assert found[Finding.MISSING].place.chunk_id == 2
    assert found[Finding.MISSING].elsewhere == ()
    assert [(row.num_damaged, row.num_missing) for row in rounds] == [(1, 0), (0, 1)]
    assert [chunk.chunk_id for chunk in chunks if chunk.is_damaged] == [4]


@pytest.mark.parametrize("byte", [0, 1, 2047, 4095])
@pytest.mark.parametrize("bit", [0, 7])
def test_any_bit_of_a_chunk_counts(path, byte, bit):
    flip_bit(path, digests(path, 1)[4], byte=byte, bit=bit)

    with ChunkStoreReader(path) as reader:
        assert [f.finding for f in reader.verify().findings] == [Finding.DAMAGED]


@pytest.mark.parametrize("value", ["text", 7, None])
def test_a_value_that_is_no_blob_is_damage(path, value):
    with editing(path) as conn:
        conn.execute("PRAGMA ignore_check_constraints=ON")
        conn.execute(
            "UPDATE OR REPLACE chunk_data SET data = coalesce(?, zeroblob(0)) "
            "WHERE chunk_hash = ?",
            (value, digests(path, 1)[0]),
        )

    with ChunkStoreReader(path) as reader:
        assert [f.finding for f in reader.verify().findings] == [Finding.DAMAGED]


def test_a_flipped_dtype_is_damage_too(path):
    with editing(path) as conn:
        conn.execute(
            "UPDATE chunk_data SET dtype = 'int32' WHERE chunk_hash = ?",
            (digests(path, 1)[0],),
        )

    with ChunkStoreReader(path) as reader:
        assert [f.finding for f in reader.verify().findings] == [Finding.DAMAGED]


def test_rows_that_were_changed_make_a_bad_round(path):
    with editing(path) as conn:
        conn.execute("UPDATE tensors SET name = 'x' WHERE round_num = 2")

    with ChunkStoreReader(path) as reader:
        report = reader.verify()

    assert [(f.finding, f.rounds) for f in report.findings] == [
        (Finding.BAD_ROUND, (2,))
    ]


def test_a_page_that_sqlite_cannot_read_does_not_hide_the_rest(path):
    flip_bit(path, digests(path, 1)[0])
    damaged = bytearray(path.read_bytes())
    leaf = damaged.index(small_model(seed=1)["conv.weight"].numpy().tobytes()) // 65536
    damaged[leaf * 65536 : leaf * 65536 + 8] = b"\xff" * 8
    path.write_bytes(damaged)

    with ChunkStoreReader(path) as reader:
        report = reader.verify()

    assert Finding.UNREADABLE in {finding.finding for finding in report.findings}
    assert report.num_rounds == 2


def test_an_index_that_does_not_fit_its_table_is_found(path):
    damage_index(path, digests(path, 1)[3])

    with ChunkStoreReader(path) as reader:
        findings = reader.verify().findings

    details = [f.detail for f in findings if f.finding is Finding.BAD_STRUCTURE]
    assert any("idx_chunk_metadata_hash" in detail for detail in details)


def test_progress_runs_to_the_end(path):
    seen = []

    with ChunkStoreReader(path) as reader:
        reader.verify(progress=lambda done, total: seen.append((done, total)))

    assert seen == sorted(seen)
    assert seen[-1][0] == seen[-1][1]


def test_a_cancelled_verification_says_nothing_about_the_rest(path):
    with ChunkStoreReader(path) as reader:
        report = reader.verify(is_cancelled=lambda: True)

        assert report.was_cancelled
        assert not report.is_sound
        assert report.num_chunks == 1
        assert {row.num_damaged for row in reader.rounds()} == {None}
