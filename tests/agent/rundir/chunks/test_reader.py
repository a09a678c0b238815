import os
import pwd
import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch

from agent.rundir.chunks import connection
from agent.rundir.chunks.errors import (
    DamagedStoreError,
    ForeignStoreError,
    MissingChunkError,
    NewerStoreError,
    NoSuchRoundError,
    NotAChunkStoreError,
    StoreLockedError,
)
from agent.rundir.chunks.reader import ChunkStoreReader
from agent.rundir.errors import RunDirError
from tests.trainer.chunks.store_faults import editing, small_model, store_path
from trainer.chunks.split import FlatSplit, TensorSplit
from trainer.chunks.store import ChunkStore


@pytest.fixture
def path(tmp_path):
    """A store with three rounds, closed."""
    path = store_path(tmp_path)
    with ChunkStore.open(path) as store:
        for round_num in (1, 2, 3):
            model = small_model()
            model["conv.bias"] = torch.full((8,), float(round_num))
            store.put_round(
                round_num, model, members=["client-1"], split=TensorSplit(4096)
            )
    return path


def test_rounds_are_listed_oldest_first_with_their_figures(path):
    with ChunkStoreReader(path) as reader:
        first, second, third = reader.rounds()

        assert reader.num_rounds == 3
    assert (first.round_num, third.round_num) == (1, 3)
    assert first.new_bytes == first.num_bytes
    assert (second.new_bytes, second.shared_bytes) == (32, second.num_bytes - 32)
    assert second.num_tensors == 6
    assert second.members == ("client-1",)
    assert not second.has_nonfinite
    assert second.num_damaged is None


def test_chunks_tell_parts_and_with_how_many_rounds_they_are_shared(path):
    with ChunkStoreReader(path) as reader:
        chunks = reader.chunks(2)

    by_name = {chunk.parts[0].name: chunk for chunk in chunks}
    assert by_name["conv.weight"].shared_with == 2
    assert by_name["conv.bias"].shared_with == 0
    assert by_name["conv.bias"].parts[0].shape == (8,)
    assert not any(chunk.is_missing for chunk in chunks)


def test_a_page_of_chunks_is_read_by_position(path):
    with ChunkStoreReader(path) as reader:
        everything = reader.chunks(2)
        page = reader.chunks(2, start=5, count=7)

        assert page == everything[5:12]
        assert reader.chunks(2, start=len(everything)) == []


def test_a_round_that_is_not_there_is_an_error(path):
    with ChunkStoreReader(path) as reader:
        for call in (reader.round, reader.chunks, reader.layout):
            with pytest.raises(NoSuchRoundError, match="holds 1 to 3"):
                call(7)


def test_presence_is_told_without_reading(path):
    with ChunkStoreReader(path) as reader:
        digest = reader.chunks(1)[0].digest

        assert reader.has([digest, "0" * 64] * 600) == {digest}


def test_sizes_are_those_of_the_file(path):
    with ChunkStoreReader(path) as reader:
        stats = reader.stats()

    assert stats.file_bytes == path.stat().st_size
    assert stats.num_rounds == 3
    assert stats.num_unique_chunks == stats.num_chunk_rows - 2 * (
        stats.num_chunk_rows // 3 - 1
    )


def test_a_live_writers_rounds_are_seen_before_they_are_folded_in(tmp_path):
    path = store_path(tmp_path)
    with ChunkStore.open(path) as store, ChunkStoreReader(path) as reader:
        for round_num in range(1, 4):
            store.put_round(round_num, small_model(seed=round_num))

            assert reader.num_rounds == round_num


def test_reading_leaves_the_log_to_the_writer_in_the_same_process(tmp_path):
    """Closing the file by hand would drop the lock that keeps the log in place."""
    path = tmp_path / "server_chunks.db"
    another = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); "
    another += "c.execute('CREATE TABLE IF NOT EXISTS other (x)'); c.close()"
    with ChunkStore(path, node="server") as store:
        store.put_round(1, {"w": torch.ones(4)})
        with ChunkStoreReader(path) as reader:
            assert reader.num_rounds == 1

        subprocess.run([sys.executable, "-c", another, str(path)], check=True)

        assert path.with_name(path.name + "-wal").exists()


def test_reading_changes_nothing(path):
    before = path.read_bytes()

    with ChunkStoreReader(path) as reader:
        reader.verify()
        reader.rounds()

    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "No such file"),
        (b"", "is empty"),
        (b"PK\x03\x04" * 100, "is not a SQLite database"),
        (b"SQLite format 3\0" + b"\xff" * 4000, "database"),
    ],
)
def test_what_is_no_database_is_said_so(tmp_path, content, message):
    path = tmp_path / "x_chunks.db"
    if content is not None:
        path.write_bytes(content)

    with pytest.raises((NotAChunkStoreError, DamagedStoreError), match=message):
        ChunkStoreReader(path)


def test_a_directory_is_no_store(tmp_path):
    with pytest.raises(NotAChunkStoreError):
        ChunkStoreReader(tmp_path)


def test_another_kind_of_database_is_said_so(tmp_path):
    path = tmp_path / "x_chunks.db"
    with sqlite3.connect(path) as conn:
        conn.execute("CREATE TABLE cookies (name)")
    conn.close()

    with pytest.raises(NotAChunkStoreError, match="another kind of database"):
        ChunkStoreReader(path)


def test_the_originals_database_is_called_foreign(tmp_path):
    path = tmp_path / "client_1_chunks.db"
    with sqlite3.connect(path) as conn:
        conn.execute("CREATE TABLE chunk_metadata (round_num)")
        conn.execute("CREATE TABLE chunk_data (chunk_hash)")
    conn.close()

    with pytest.raises(ForeignStoreError) as caught:
        ChunkStoreReader(path)

    assert caught.value.hint == f"python -m trainer export-foreign {path}"


def test_a_newer_store_is_refused(path):
    with editing(path) as conn:
        conn.execute("PRAGMA user_version=2")

    with pytest.raises(NewerStoreError, match="schema 2, this version reads up to 1"):
        ChunkStoreReader(path)


def test_a_newer_codec_is_refused_for_its_chunk_only(path):
    with ChunkStoreReader(path) as reader:
        digest = reader.chunks(3)[0].digest
    with editing(path) as conn:
        conn.execute(
            "UPDATE chunk_data SET codec = 'zstd' WHERE chunk_hash = ?", (digest,)
        )

    with ChunkStoreReader(path) as reader:
        with pytest.raises(NewerStoreError, match="codec `zstd`"):
            reader.get_chunk(digest)

        assert reader.get_chunk(reader.chunks(3)[1].digest).is_sound()


def test_a_store_that_is_locked_for_good_is_said_so(path, monkeypatch):
    monkeypatch.setattr(connection, "BUSY_TIMEOUT_S", 0.05)
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("PRAGMA locking_mode=EXCLUSIVE")
    holder.execute("BEGIN EXCLUSIVE")

    with pytest.raises(StoreLockedError) as caught:
        ChunkStoreReader(path)

    holder.close()
    assert caught.value.exit_code == 73


def test_a_digest_that_nobody_has_is_missing(path):
    with ChunkStoreReader(path) as reader, pytest.raises(MissingChunkError) as caught:
        reader.get_chunk("0" * 64)

    assert "no other node holds it" in str(caught.value)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE chunk_metadata SET parts_info = 'x' WHERE round_num = 2",
        "UPDATE chunk_metadata SET size_bytes = size_bytes + 4 WHERE round_num = 2",
        "UPDATE chunk_metadata SET chunk_id = chunk_id + 1000 "
        "WHERE round_num = 2 AND chunk_id = 0",
        "DELETE FROM chunk_metadata WHERE round_num = 2 AND chunk_id = 3",
        "UPDATE tensors SET shape = '[4, 4]' WHERE round_num = 2 AND position = 0",
        "UPDATE tensors SET dtype = 'int32' WHERE round_num = 2 AND position = 0",
        "UPDATE tensors SET name = 'other' WHERE round_num = 2 AND position = 5",
        "UPDATE tensors SET kind = 'buffer' WHERE round_num = 2 AND position = 0",
        "UPDATE tensors SET num_bytes = 'many' WHERE round_num = 2 AND position = 0",
        "DELETE FROM tensors WHERE round_num = 2",
        "UPDATE rounds SET digest = 'x' WHERE round_num = 2",
        "UPDATE rounds SET optimizer = '{}' WHERE round_num = 2",
    ],
)
def test_rows_that_are_not_those_written_are_found(path, statement):
    with editing(path) as conn:
        conn.execute(statement)

    with ChunkStoreReader(path) as reader:
        with pytest.raises(DamagedStoreError, match="rows of round 2"):
            reader.layout(2)

        assert reader.layout(1) is not None


def test_a_layout_that_is_asked_for_again_is_not_read_again_while_nothing_changes(path):
    with ChunkStoreReader(path) as reader:
        before = reader.layout(2)

        assert reader.layout(2) is before
        assert reader.layout(3) is not before


def test_a_layout_is_read_again_once_somebody_has_committed(path):
    with ChunkStoreReader(path) as reader, ChunkStore.open(path) as store:
        before = reader.layout(3)
        model = small_model()
        model["conv.bias"] = torch.full((8,), 9.0)
        store.put_round(3, model, replace=True)

        assert reader.layout(3).digest() != before.digest()

        reader.layout(1)
        store.prune(1)
        with pytest.raises(NoSuchRoundError):
            reader.layout(1)


@pytest.mark.parametrize("num_trials", [40, pytest.param(2000, marks=pytest.mark.soak)])
def test_no_damage_to_the_file_raises_anything_but_our_errors(path, num_trials):
    sound = path.read_bytes()
    chance = random.Random(7)
    for _ in range(num_trials):
        damaged = bytearray(sound)
        # Most of the file is pages of blobs: aim at what SQLite interprets.
        for _ in range(chance.randrange(1, 20)):
            page = chance.randrange(len(sound) // 65536) * 65536
            damaged[
                page + chance.choice([chance.randrange(120), -chance.randrange(99)])
            ] = chance.randrange(256)
        if chance.random() < 0.3:
            damaged = damaged[: chance.randrange(len(damaged))]
        path.write_bytes(damaged)

        try:
            with ChunkStoreReader(path) as reader:
                reader.stats()
                for row in reader.rounds():
                    reader.chunks(row.round_num)
                reader.verify()
        except RunDirError:
            continue


@pytest.mark.parametrize(
    "num_chunks",
    [20_000, pytest.param(1_000_000, marks=pytest.mark.soak)],
)
def test_a_page_of_very_many_chunks_is_found(tmp_path, num_chunks):
    path = store_path(tmp_path)
    with ChunkStore.open(path) as store:
        store.put_round(
            1, {"w": torch.zeros(9, dtype=torch.uint8)}, split=FlatSplit(num_chunks)
        )

    with ChunkStoreReader(path) as reader:
        (row,) = reader.rounds()
        page = reader.chunks(1, start=num_chunks - 50, count=50)

    assert row.num_chunks == num_chunks
    assert [chunk.chunk_id for chunk in page] == list(
        range(num_chunks - 50, num_chunks)
    )


@pytest.fixture
def open_directory():
    """A directory that other users can reach, unlike pytest's."""
    directory = Path(tempfile.mkdtemp())
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory)


def as_another_user(look):
    """Return what `look` returns in a process that gave root up."""
    receiving, sending = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            nobody = pwd.getpwnam("nobody")
            os.setgroups([])
            os.setgid(nobody.pw_gid)
            os.setuid(nobody.pw_uid)
            os.write(sending, repr(look()).encode())
        except BaseException as error:  # noqa: BLE001 - the parent shows it
            os.write(sending, repr(error).encode())
        finally:
            os._exit(0)
    os.close(sending)
    with os.fdopen(receiving) as file:
        answer = file.read()
    os.waitpid(child, 0)
    return answer


@pytest.mark.skipif(os.getuid() != 0, reason="only root may become another user")
@pytest.mark.parametrize("is_open", [False, True], ids=["closed", "being_written"])
def test_another_user_may_look_but_not_write(open_directory, is_open):
    path = store_path(open_directory)
    store = ChunkStore.open(path)
    store.put_round(1, small_model())
    # A thread in the middle of SQLite would take its locks into the child.
    store.settle()
    if not is_open:
        store.close()

    def look():
        with pytest.raises(OSError, match="Permission denied"):
            path.open("r+b")
        with ChunkStoreReader(path) as reader:
            return reader.num_rounds, reader.verify().is_sound

    answer = as_another_user(look)
    store.close()

    assert answer == "(1, True)"


def test_the_reader_loads_no_framework():
    script = (
        "import sys, agent.rundir.chunks.reader, agent.rundir.chunks.foreign\n"
        "print(*sys.modules, sep='\\n')"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )

    assert {"torch", "numpy", "sqlite_utils", "psutil"}.isdisjoint(done.stdout.split())
