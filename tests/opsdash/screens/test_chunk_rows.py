"""A million chunks as rows: bad ones first, sorted and filtered beside a scan."""

import contextlib
import sqlite3
import threading
from dataclasses import replace

import pytest
import torch

from agent.rundir.chunks.reader import ChunkStoreReader
from opsdash.operations.chunk_scan import ScannedChunk
from opsdash.operations.store_reading import StoreReading
from opsdash.screens import chunk_pages as pages
from opsdash.screens import chunk_rows as module
from opsdash.screens.chunk_pages import ChunkPages
from opsdash.screens.chunk_rows import ChunkRows
from opsdash.screens.chunk_table import say_scan
from opsdash.screens.chunk_texts import TextKeys
from trainer.chunks.split import FlatSplit
from trainer.chunks.store import ChunkStore

NUM_CHUNKS = 1_500
PATIENCE_S = 30


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """A round of many chunks of growing size; two of them are missing."""
    path = tmp_path_factory.mktemp("run") / "chunks" / "server" / "server_chunks.db"
    path.parent.mkdir(parents=True)
    tensors = {"first.weight": torch.arange(1_000.0), "second.bias": torch.ones(500)}
    tensors["second.bias"] += torch.arange(500.0) * 7
    with ChunkStore(path, node="server") as store:
        store.put_round(1, tensors, split=FlatSplit(NUM_CHUNKS))
    with contextlib.closing(sqlite3.connect(path)) as store, store:
        store.execute(
            """DELETE FROM chunk_data WHERE chunk_hash IN (SELECT chunk_hash
               FROM chunk_metadata WHERE chunk_id IN (40, 900))"""
        )
    return path


class Seen:
    """What a screen does with a round: it draws, and draws again when told to."""

    def __init__(self, path):
        with ChunkStoreReader(path) as reader:
            row = reader.round(1)
        self.told = threading.Event()
        self.reading = StoreReading(path, self.told.set)
        self.rows = ChunkRows(row, path, ChunkPages(self.reading, 1))

    def draw(self, index):
        """Return a row once everything that it needs was read."""
        cells = self.rows.row(index)
        while cells[1].text == "reading":
            assert self.told.wait(PATIENCE_S)
            self.told.clear()
            for what, answer in self.reading.take().items():
                self.rows.take(what, answer)
            cells = self.rows.row(index)
        return cells

    def close(self):
        self.rows.close()
        self.reading.stop()


@pytest.fixture
def seen(path):
    seen = Seen(path)
    yield seen
    seen.close()


@pytest.fixture
def rows(seen):
    finish(seen.rows)
    return seen.rows


def finish(rows):
    while rows.advance():
        pass


def keys(rows, count=6):
    return [rows.key(index) for index in range(min(count, len(rows)))]


def test_missing_chunks_come_first_and_no_row_is_lost(seen, rows):
    assert keys(rows, 5) == [40, 900, 0, 1, 2]
    assert sorted(rows.key(i) for i in range(len(rows))) == list(range(NUM_CHUNKS))
    assert seen.draw(0)[3].text == "missing"
    assert rows.num_bad == 2


def test_a_row_is_found_again_by_its_chunk(rows):
    for index in (0, 1, 2, 41, 42, 900, NUM_CHUNKS - 1):
        assert rows.find(rows.key(index)) == index
    assert rows.find(NUM_CHUNKS) is None
    assert rows.find("x") is None


def test_damaged_ones_come_first_as_soon_as_they_are_known(seen, rows):
    seen.draw(rows.find(7))
    digest = rows.chunk(7).digest

    rows.know_damaged({digest})
    finish(rows)

    assert 7 in keys(rows, 3)
    assert seen.draw(rows.find(7))[3].text == "damaged"


def test_orders_by_column_both_ways(rows):
    rows.order_by("chunk", is_descending=True)
    finish(rows)
    by_id = keys(rows, 2)
    rows.order_by("state", is_descending=False)
    finish(rows)
    by_state = keys(rows, 2)
    rows.order_by("size", is_descending=True)
    finish(rows)
    found = [rows.find(rows.key(index)) for index in (0, 10, NUM_CHUNKS - 1)]

    assert by_id == [NUM_CHUNKS - 1, NUM_CHUNKS - 2]
    assert sorted(by_state) == [40, 900]
    assert found == [0, 10, NUM_CHUNKS - 1]


@pytest.mark.parametrize("column", ["digest", "holds"])
@pytest.mark.parametrize("is_descending", [False, True])
def test_texts_are_ordered_too_and_kept_for_nobody_else(
    path, seen, rows, column, is_descending
):
    with ChunkStoreReader(path) as reader:
        chunks = reader.chunks(1, 0, NUM_CHUNKS)
    text_of = {
        chunk.chunk_id: {
            "digest": chunk.digest,
            "holds": " ".join(part.name for part in chunk.parts),
        }[column]
        for chunk in chunks
    }
    before = rows._keys.text_column

    is_begun = rows.order_by(column, is_descending=is_descending)
    finish(rows)

    texts = [text_of[key] for key in keys(rows, NUM_CHUNKS)]
    assert (before, is_begun) == (None, True)
    assert texts == sorted(texts, reverse=is_descending)
    assert len(set(texts)) > 1
    assert [rows.find(rows.key(index)) for index in (0, 7, 900)] == [0, 7, 900]


def test_a_filter_goes_into_an_order_by_text(rows):
    rows.order_by("digest", is_descending=False)
    finish(rows)
    rows.restrict("second")
    finish(rows)

    assert 0 < len(rows) < NUM_CHUNKS
    assert sorted(rows.key(i) for i in range(len(rows))) != [
        rows.key(i) for i in range(len(rows))
    ]


def test_a_digest_that_is_none_comes_first():
    digests = ("zz", "", "0" * 15 + "2", "f" * 64, "\u0664", "-1")
    keys = TextKeys("digest")
    for number, digest in enumerate(digests):
        keys.append(ScannedChunk(number, 1, 0, digest, is_missing=False, names=""))

    assert list(keys.numbers()) == [0, 0, 2, (1 << 64) - 1, 4 << 60, 0]


@pytest.fixture
def shrinking(path, tmp_path):
    """A round some of whose rows go after it was opened."""
    copy = tmp_path / path.name
    copy.write_bytes(path.read_bytes())
    seen = Seen(copy)
    seen.rows.close()
    yield seen
    seen.close()


def forget(seen, where):
    with contextlib.closing(sqlite3.connect(seen.rows._path)) as store, store:
        store.execute(f"DELETE FROM chunk_metadata WHERE {where}")
    seen.rows.restrict("")
    finish(seen.rows)


@pytest.mark.parametrize("column", ["size", "shared", "digest", "holds", "state"])
def test_a_round_that_was_pruned_meanwhile_is_sorted_and_said_to_be_gone(
    shrinking, column
):
    forget(shrinking, "1")
    rows = shrinking.rows
    rows.order_by(column, is_descending=True)
    finish(rows)

    assert rows.num_gone == NUM_CHUNKS
    assert say_scan(rows) == "1,500 are gone since it was opened"
    assert sorted(keys(rows, NUM_CHUNKS)) == list(range(NUM_CHUNKS))


def test_a_store_that_cannot_be_looked_through_says_why(seen, tmp_path):
    other = tmp_path / "server_chunks.db"
    other.write_bytes(b"no database " * 1_000)
    rows = ChunkRows(seen.rows.round, other, ChunkPages(seen.reading, 1))
    finish(rows)

    assert say_scan(rows).startswith("looking ended: ")
    assert other.name in say_scan(rows)
    rows.close()


@pytest.mark.parametrize("told", [-3, 10, 10**15])
def test_a_number_of_chunks_that_is_a_lie_costs_little(seen, told, monkeypatch):
    monkeypatch.setattr(module, "MAX_CHUNKS", 2 * NUM_CHUNKS)
    row = replace(seen.rows.round, num_chunks=told)
    rows = ChunkRows(row, seen.rows._path, ChunkPages(seen.reading, 1))
    finish(rows)
    rows.order_by("size", is_descending=True)
    finish(rows)

    num = min(max(0, told), 2 * NUM_CHUNKS)
    assert len(rows) == num
    assert rows.num_gone == max(0, num - NUM_CHUNKS)
    rows.close()


@pytest.mark.parametrize(
    ("most", "said"),
    [
        (NUM_CHUNKS, "2 missing or damaged"),
        (1_000, "2 missing or damaged, the last 500 have no row here"),
        (
            800,
            "2 missing or damaged, the last 700 have no row here, "
            "1 of the bad ones with them",
        ),
    ],
)
def test_chunks_that_have_no_row_are_told_and_looked_at(seen, monkeypatch, most, said):
    monkeypatch.setattr(module, "MAX_CHUNKS", most)
    rows = ChunkRows(seen.rows.round, seen.rows._path, ChunkPages(seen.reading, 1))
    finish(rows)
    told = say_scan(rows)
    rows.restrict("second")
    finish(rows)
    rows.order_by("size", is_descending=True)
    finish(rows)

    assert told == said
    assert max(keys(rows, len(rows)), default=0) < most
    rows.close()


def test_rows_behind_one_that_is_gone_keep_their_keys(shrinking):
    with ChunkStoreReader(shrinking.rows._path) as reader:
        digests = {one.chunk_id: one.digest for one in reader.chunks(1, 0, NUM_CHUNKS)}
    forget(shrinking, "chunk_id = 7")
    rows = shrinking.rows
    rows.order_by("digest", is_descending=False)
    finish(rows)

    del digests[7]
    assert keys(rows, NUM_CHUNKS) == [7, *sorted(digests, key=digests.__getitem__)]


def test_an_order_needs_the_whole_scan(seen):
    rows = seen.rows
    early = rows.order_by("size", is_descending=False)
    finish(rows)
    late = rows.order_by("size", is_descending=False)

    assert (early, late) == (False, True)


def test_rows_stay_as_they_were_until_another_order_is_made(rows):
    before = keys(rows)

    rows.order_by("chunk", is_descending=True)
    meanwhile, is_told = keys(rows), rows.is_ordering
    finish(rows)

    assert (meanwhile, is_told) == (before, True)
    assert keys(rows, 1) == [NUM_CHUNKS - 1]
    assert not rows.is_ordering


def test_what_a_filter_leaves_is_sorted_too(rows):
    rows.order_by("chunk", is_descending=True)
    rows.restrict("second")
    finish(rows)

    assert keys(rows, 2) == [NUM_CHUNKS - 1, NUM_CHUNKS - 2]
    assert len(rows) == 500
    assert rows.find(NUM_CHUNKS - 2) == 1
    assert rows.find(3) is None


def test_no_order_is_begun_while_a_filter_still_finds_rows(rows):
    rows.restrict("first")

    assert not rows.order_by("chunk", is_descending=True)
    finish(rows)
    assert keys(rows, 3) == [0, 1, 2]


def test_a_filter_looks_at_names_states_and_ids(rows):
    rows.restrict("second")
    finish(rows)
    second = len(rows)
    rows.restrict("missing")
    finish(rows)
    missing = keys(rows)
    rows.restrict("!first")
    finish(rows)

    assert second == 500
    assert missing == [40, 900]
    assert len(rows) == 500


def test_an_expression_that_takes_too_long_is_taken_literally(rows, monkeypatch):
    monkeypatch.setattr(module, "_PATIENCE_S", 0.05)

    rows.restrict("(([0-9a-f]+)+)+$")
    finish(rows)

    assert rows.is_literal
    assert len(rows) == 0


def test_a_row_is_not_waited_for_and_is_there_when_it_was_read(seen):
    first = seen.rows.row(5)
    then = seen.draw(5)

    assert first[1].text == "reading"
    assert then[5].text == "first.weight"


def test_a_row_whose_round_was_pruned_says_so(path, tmp_path):
    pruned = tmp_path / "client-1_chunks.db"
    pruned.write_bytes(path.read_bytes())
    seen = Seen(pruned)
    with contextlib.closing(sqlite3.connect(pruned)) as store, store:
        store.execute("DELETE FROM chunk_metadata")
        store.execute("DELETE FROM rounds")

    cells = seen.draw(5)
    seen.close()

    assert cells[1].text == "gone"


def test_however_far_is_scrolled_few_pages_are_kept(seen, monkeypatch):
    monkeypatch.setattr(pages, "_MAX_PAGES", 3)

    for index in range(0, NUM_CHUNKS, pages.PAGE_ROWS):
        seen.draw(index)

    assert len(seen.rows._pages._pages) == 3
