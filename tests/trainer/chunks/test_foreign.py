import hashlib
import json
import os
import pickle
import pickletools
import sqlite3

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.rundir.chunks.errors import (
    DamagedChunkError,
    DamagedStoreError,
    MissingChunkError,
    NoSuchRoundError,
    NotAChunkStoreError,
)
from agent.rundir.chunks.foreign import ForeignStoreReader
from agent.rundir.errors import UnreadableFileError
from tests.trainer.chunks.original import OriginalStore
from trainer.chunks import unpickle
from trainer.chunks.foreign import export_foreign, load_foreign
from trainer.chunks.unpickle import NotAnArrayError, load_array

# The default of every Python 3 so far is among these.
PROTOCOLS = range(3, pickle.HIGHEST_PROTOCOL + 1)


def model():
    generator = torch.Generator().manual_seed(3)
    return {
        "fc.weight": torch.randn(20, 30, generator=generator),
        "fc.bias": torch.randn(20, generator=generator),
        "bn.num_batches_tracked": torch.tensor(12345),
        "bn.running_var": torch.rand(20, generator=generator),
    }


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "client_1" / "client_1_chunks.db"
    store = OriginalStore(path)
    store.save(model(), 1)
    store.save({**model(), "fc.bias": torch.zeros(20)}, 2)
    return path


def same(loaded):
    return set(loaded) == set(model()) and all(
        torch.equal(loaded[name], tensor) and loaded[name].dtype == tensor.dtype
        for name, tensor in model().items()
    )


def test_rounds_and_chunks_are_browsed_without_unpickling(path):
    with ForeignStoreReader(path) as reader:
        rounds = reader.rounds()
        chunks = reader.chunks(2)

    assert [(row.round_num, row.num_chunks, row.num_missing) for row in rounds] == [
        (1, 10, 0),
        (2, 10, 0),
    ]
    assert sum(chunk.shared_with for chunk in chunks) == 9
    assert chunks[0].parts[0].name == "bn.num_batches_tracked"


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_round_is_read_whatever_the_pickles_protocol(tmp_path, protocol):
    path = tmp_path / "client_1_chunks.db"
    OriginalStore(path, protocol).save(model(), 1)

    with ForeignStoreReader(path) as reader:
        assert same(load_foreign(reader, 1))


def test_a_round_is_exported_by_another_process(path, tmp_path, monkeypatch):
    to = tmp_path / "round.pt"
    monkeypatch.chdir(tmp_path)

    assert export_foreign(path, 1, to) == 4
    assert same(torch.load(to, weights_only=True))


def test_a_database_without_chunks_is_said_so(tmp_path):
    path = tmp_path / "x.db"
    with sqlite3.connect(path) as conn:
        conn.execute("CREATE TABLE cookies (name)")
    conn.close()

    with pytest.raises(NotAChunkStoreError):
        ForeignStoreReader(path)


def test_a_round_that_is_not_there_is_an_error(path):
    with ForeignStoreReader(path) as reader, pytest.raises(NoSuchRoundError):
        reader.chunks(9)


def change(path, statement, *values):
    with sqlite3.connect(path) as conn:
        conn.execute(statement, values)
    conn.close()


def test_a_round_without_a_number_is_damage(path):
    with sqlite3.connect(path) as conn:
        conn.execute("UPDATE chunk_metadata SET round_num = 'x' WHERE round_num = 2")
    conn.close()

    with (
        ForeignStoreReader(path) as reader,
        pytest.raises(DamagedStoreError, match="has no number"),
    ):
        reader.rounds()


def test_a_flipped_bit_is_found_before_anything_is_unpickled(path):
    change(path, "UPDATE chunk_data SET data = data || x'00' WHERE id = 3")

    with (
        ForeignStoreReader(path) as reader,
        pytest.raises(DamagedChunkError, match=r"round 1 at `client_1`"),
    ):
        load_foreign(reader, 1)


def test_a_missing_chunk_is_no_zeros(path):
    change(path, "DELETE FROM chunk_data WHERE id = 3")

    with ForeignStoreReader(path) as reader:
        with pytest.raises(MissingChunkError, match="is missing"):
            load_foreign(reader, 1)

        assert reader.rounds()[0].num_missing == 1


def test_a_missing_row_is_no_zeros(path):
    change(path, "DELETE FROM chunk_metadata WHERE round_num = 1 AND chunk_id = 4")

    with (
        ForeignStoreReader(path) as reader,
        pytest.raises(MissingChunkError, match=r"leaves a gap in `fc\.weight`"),
    ):
        load_foreign(reader, 1)


def replace_first(path, data):
    """Put a pickle of somebody's making where the first chunk was, digest and all."""
    digest = hashlib.sha256(data).hexdigest()
    change(
        path,
        "UPDATE chunk_data SET data = ?, chunk_hash = ? WHERE id = 1",
        data,
        digest,
    )
    change(
        path,
        "UPDATE chunk_metadata SET chunk_hash = ? WHERE chunk_id = 0",
        digest,
    )


class Hostile:
    """Calls something when it is unpickled."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


class SubArray(np.ndarray):
    """An array of a class of its own."""


def hostile_pickles(marker):
    run = f"touch {marker}"
    yield "os.system", pickle.dumps(Hostile(os.system, run))
    yield "eval", pickle.dumps(Hostile(eval, f"open({str(marker)!r}, 'w')"))
    yield "old protocol", f"cos\nsystem\n(S'{run}'\ntR.".encode()
    yield (
        "by stack",
        b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c"
        + bytes([len(run)])
        + run.encode()
        + b"\x85R.",
    )
    yield "getattr", pickle.dumps(Hostile(getattr, np.ndarray, "tofile"))
    yield "numpy.load", pickle.dumps(Hostile(np.load, str(marker)))
    yield "memmap", b"cnumpy\nmemmap\n(S'" + str(marker).encode() + b"'\ntR."
    yield "numpy submodule", b"cnumpy\ncore.multiarray._reconstruct\n."
    yield "dotted", b"\x80\x04\x8c\x05numpy\x8c\x0fndarray.__class_\x93."
    yield "extension", b"\x80\x02\x82\x01."
    yield "persistent", b"Pos.system\n."
    yield "build on list", b"]}b."
    yield "instance", b"(S'x'\nios\nsystem\n."
    yield "object array", pickle.dumps(np.array([Hostile(os.system, run)], object))
    yield "structured", pickle.dumps(np.zeros(2, "i4,f4"))
    yield "text array", pickle.dumps(np.array(["a"]))
    yield "datetime", pickle.dumps(np.zeros(2, "M8[s]"))
    yield "subclass", pickle.dumps(np.zeros(2).view(SubArray))
    yield "scalar", pickle.dumps(np.float64(1))
    yield "number", pickle.dumps(7)
    yield "none", pickle.dumps(None)
    yield "class itself", b"cnumpy\nndarray\n."
    yield "dtype itself", pickle.dumps(np.dtype("f4"))
    yield "nothing", b""
    yield "no stop", pickle.dumps(np.zeros(3))[:-1]
    yield "garbage", bytes(range(256))
    yield "deep", b"(" * 100_000 + b"t" * 100_000 + b"."
    yield "long bomb", b"\x80\x02\x8b\xff\xff\xff\x7f."
    yield "bytes bomb", b"\x80\x04\x8e" + b"\xff" * 7 + b"\x7f."


MEMO_BOMB = b"\x80\x02Nr\x00\x00\x00\x22."
"""Asks for 9 GB: only for a process whose memory is bounded."""

NAMES = [name for name, _ in hostile_pickles("m")]


@pytest.mark.parametrize("name", NAMES)
def test_a_hostile_pickle_runs_nothing(tmp_path, name):
    marker = tmp_path / "ran"
    data = dict(hostile_pickles(marker))[name]

    with pytest.raises((NotAnArrayError, MemoryError)):
        load_array(data)

    assert not marker.exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [("os.system", "names `posix.system`"), ("memo bomb", "cannot be read")],
)
def test_a_hostile_database_ends_a_process_at_most(path, tmp_path, name, message):
    marker = tmp_path / "ran"
    pickles = {**dict(hostile_pickles(marker)), "memo bomb": MEMO_BOMB}
    replace_first(path, pickles[name])

    with pytest.raises(UnreadableFileError, match=f"was not exported.*{message}"):
        export_foreign(path, 1, tmp_path / "x.pt")

    assert not marker.exists()
    assert not (tmp_path / "x.pt").exists()


def test_the_hostile_pickles_do_run_where_nothing_holds_them(tmp_path):
    marker = tmp_path / "ran"

    pickle.loads(dict(hostile_pickles(marker))["os.system"])

    assert marker.exists()


def edited(array, edit):
    """A pickle of an array with one of its strings replaced."""
    data = pickle.dumps(array, protocol=2)
    changed = edit(data)
    assert changed != data
    list(pickletools.genops(changed))  # still a pickle
    return changed


@pytest.mark.parametrize(
    ("array", "old", "new"),
    [
        (np.zeros(4, "f4"), b"K\x04\x85", b"K\x05\x85"),
        (np.zeros(4, "f4"), b"K\x04\x85", b"J\xff\xff\xff\xff\x85"),
        (np.zeros(4, "f4"), b"f4", b"V9"),
        (np.zeros(4, "f4"), b"f4", b"O8"),
        (np.zeros(4, "f4"), b"<", b"?"),
    ],
    ids=["longer", "negative", "void", "object", "order"],
)
def test_an_array_that_contradicts_itself_is_refused(array, old, new):
    data = edited(array, lambda data: data.replace(old, new, 1))

    with pytest.raises(NotAnArrayError):
        load_array(data)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from("<>"),
    st.sampled_from(sorted(unpickle.DTYPES)),
    st.lists(st.integers(0, 4), max_size=3),
    st.sampled_from("CF"),
    st.sampled_from(PROTOCOLS),
    st.binary(max_size=8),
)
def test_plain_arrays_come_back_exactly(byte_order, code, shape, order, protocol, seed):
    dtype = np.dtype(byte_order + code)
    count = int(np.prod(shape)) * dtype.itemsize
    content = (seed + b"\1")[:1] * count if code == "b1" else (seed * 99 + bytes(999))
    flat = np.frombuffer(content[:count].ljust(count, b"\0"), dtype)
    array = np.array(flat.reshape(shape), order=order)

    loaded = load_array(pickle.dumps(array, protocol=protocol))

    assert (loaded.dtype, loaded.shape) == (array.dtype, array.shape)
    assert loaded.tobytes() == array.tobytes()


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_damaged_pickle_raises_one_kind_of_error(data):
    sound = pickle.dumps(np.arange(5.0), protocol=data.draw(st.integers(0, 5)))
    at = data.draw(st.integers(0, len(sound) - 1))
    damaged = sound[:at] + data.draw(st.binary(max_size=3)) + sound[at + 1 :]

    try:
        load_array(damaged)
    except (NotAnArrayError, MemoryError):
        return


@pytest.mark.parametrize(
    "parts",
    [
        {"fc.weight": [[0, 5, [10**15]]]},
        {"fc.weight": [[0, 10**15, [10**15]]]},
        {"fc.weight": [[5, 0, [5]]]},
        {"fc.weight": [[0, 5, [5]], [0, 5, [5]]]},
    ],
)
def test_parts_that_were_made_up_take_no_memory(path, parts):
    change(path, "DELETE FROM chunk_metadata WHERE chunk_id > 0")
    change(path, "UPDATE chunk_metadata SET parts_info = ?", json.dumps(parts))

    with (
        ForeignStoreReader(path) as reader,
        pytest.raises((NotAnArrayError, MissingChunkError)),
    ):
        load_foreign(reader, 1)


def test_reading_a_foreign_database_changes_nothing(path):
    before = path.read_bytes()

    with ForeignStoreReader(path) as reader:
        load_foreign(reader, 1)

    assert path.read_bytes() == before
