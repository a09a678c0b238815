"""Where the browser of chunk stores stands, without any screen."""

import contextlib
import sqlite3
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from agent.rundir.operations import Operation, encode_operation
from opsdash import units
from opsdash.operations.record import entry
from opsdash.projections.run import Run
from opsdash.screens import chunk_browser as browser_module
from opsdash.screens.chunk_browser import ChunkBrowser, Level
from opsdash.screens.pane import View
from opsdash.screens.store_fields import STORES, Store, done_before, store_state
from tests.run_states import STATES
from tests.runs import SECOND, RunWriter, Watcher
from tests.watched import still_clocks
from trainer.chunks.store import ChunkStore

PATIENCE_S = 30


class Walk:
    """An operator in front of the browser of one run."""

    def __init__(self, writer: RunWriter) -> None:
        self.run = writer.run
        self.watcher = watcher = Watcher(writer.run)
        clocks = still_clocks(writer)
        verdict = watcher.run.verdict(clocks.mono_ns, clocks.time_ns)
        self.view = View(watcher.run, clocks.mono_ns, clocks.time_ns, verdict)
        self.told = threading.Semaphore(0)
        self.browser = ChunkBrowser(self.told.release)

    def enter(self, key) -> None:
        """Open a row, and wait for what must be read first."""
        if not self.browser.enter(self.view, key):
            self.wait()

    def wait(self) -> None:
        """Wait until what was read led to another level."""
        while not self.told.acquire(timeout=PATIENCE_S) or not self.browser.take():
            pass

    def later(self) -> None:
        """Let so much time pass that everything is looked at again."""
        now_mono_ns = self.view.now_mono_ns + 10 * SECOND
        self.view = replace(self.view, now_mono_ns=now_mono_ns)

    def look(self, node, is_so) -> Store:
        """Look into the stores until so much is known of one; return that."""
        self.browser.look(self.view)
        while True:
            assert self.told.acquire(timeout=PATIENCE_S)
            self.browser.take()
            found = {one.node: one for one in self.browser.stores(self.view)}[node]
            if is_so(found):
                return found

    def words(self, key=None) -> str:
        """What is told of where it stands and of a row."""
        facts = self.browser.where() + self.browser.facts(self.view, key)
        return "\n".join(f"{fact.label} {fact.value}" for fact in facts)


@pytest.fixture
def walk(tmp_path):
    walk = Walk(STATES["federated"](tmp_path / "run"))
    yield walk
    walk.browser.close()


def test_enter_goes_down_to_the_parts_and_up_comes_back(walk):
    browser, levels = walk.browser, []
    for key in ("client-1", 8, 0):
        walk.enter(key)
        levels.append(browser.level)
    deepest = walk.words()
    while browser.up():
        levels.append(browser.level)

    assert levels == [
        Level.ROUNDS,
        Level.CHUNKS,
        Level.PARTS,
        Level.CHUNKS,
        Level.ROUNDS,
        Level.STORES,
    ]
    assert "client-1 > round 8 > chunk 0" in deepest
    assert browser.store is None


def test_two_rounds_are_compared_beside_the_screen(walk):
    walk.enter("client-1")
    walk.browser.store.compare(7, 8)
    during = walk.words()
    walk.wait()

    assert "comparing round 7 with round 8" in during
    assert walk.browser.level is Level.DIFF
    assert "1 of 3 chunks" in walk.words()
    assert walk.browser.records(walk.view)


def test_up_gives_a_comparison_up_before_it_goes_anywhere(walk):
    walk.enter("client-1")
    walk.browser.store.compare(7, 8)
    walk.browser.up()
    words = walk.words()
    walk.browser.take()

    assert "comparing" not in words
    assert walk.browser.level is Level.ROUNDS


def test_a_comparison_that_fails_stays_where_it_was_and_says_why(walk):
    walk.enter("client-1")
    walk.browser.store.compare(7, 99)
    while walk.browser.store.comparing:
        assert walk.told.acquire(timeout=PATIENCE_S)
        walk.browser.take()

    assert walk.browser.level is Level.ROUNDS
    assert "99" in str(walk.browser.store.diff_error)


def test_which_rounds_are_compared(walk):
    walk.enter("client-1")
    two = walk.browser.two_rounds

    assert two([8, 3], 5) == (3, 8)
    assert two([], 8) == (7, 8)
    assert two([], walk.browser.store.rounds[-1].round_num) is None


def test_a_database_of_somebody_else_is_said_to_be_one(walk):
    path = walk.view.run.directory.path + "/chunks/other/other_chunks.db"
    _make_foreign(path)
    walk.watcher.read()

    assert "other" in {store.node for store in walk.browser.stores(walk.view)}
    walk.enter("other")

    assert walk.browser.level is Level.ROUNDS
    assert walk.browser.records(walk.view) == []
    assert "cannot" in walk.words()


def test_a_prune_shows_before_its_owner_tells_of_the_next_round(walk):
    path = walk.run.chunk_store("server")
    with ChunkStore(path) as store:
        store.prune(1)

    found = walk.look("server", lambda one: one.now is not None)
    shown = {f.column.title: f.cell(found).text for f in STORES}

    assert found.told.num_rounds == 2
    assert (shown["round"], shown["kept"], shown["chunks"]) == ("8", "1", "3")
    assert shown["file"] == units.byte_size(path.stat().st_size)
    assert shown["put in"] == "9 ms"


def test_a_store_is_looked_into_again_when_it_changed_and_when_it_is_gone(walk):
    path = walk.run.chunk_store("server")
    walk.look("server", lambda one: one.now is not None)
    path.write_bytes(b"garbage" * 99)
    walk.later()
    broken = walk.look("server", lambda one: one.why_unread)
    path.unlink()
    walk.later()
    gone = walk.look("server", lambda one: not one.why_unread)

    assert "is not a SQLite database" in store_state(broken)[0]
    assert broken.num_damaged == 1
    assert gone.now is None


def test_a_checkpoint_that_is_called_like_a_node_is_no_store(walk):
    done = [
        entry("1", "verify", "done", subject=f"{place}server", state=state)
        for place, state in (("chunks/", "damaged"), ("", "sound"))
    ]
    directory = replace(walk.view.run.directory, operations=tuple(done))
    view = SimpleNamespace(run=SimpleNamespace(directory=directory))

    assert [one.state for one in done_before(view).values()] == ["damaged"]


def test_what_was_done_is_gone_through_once_for_all_stores(walk, monkeypatch):
    looks = []
    look = browser_module.done_before
    monkeypatch.setattr(
        browser_module, "done_before", lambda view: looks.append(view) or look(view)
    )

    found = walk.browser.stores(walk.view)

    assert len(found) == 4
    assert len(looks) == 1


def test_bytes_that_are_no_database_are_said_to_be_none(walk):
    path = walk.view.run.directory.path + "/chunks/other/other_chunks.db"
    _make_foreign(path, content=b"\x1b[2J" * 4_000)

    walk.enter("other")

    assert "cannot" in walk.words()


def _make_foreign(path: str, content: bytes | None = None) -> None:
    Path(path).parent.mkdir()
    if content is not None:
        Path(path).write_bytes(content)
        return
    with contextlib.closing(sqlite3.connect(path)) as other, other:
        other.execute("CREATE TABLE t (x)")


def test_before_anything_was_read_no_store_of_the_working_directory_is_shown(
    tmp_path, monkeypatch
):
    writer = STATES["federated"](tmp_path / "run")
    monkeypatch.chdir(writer.path)
    unread = Run()
    view = View(unread, 1, 1, unread.verdict(1, 1))

    assert ChunkBrowser(lambda: None).stores(view) == []


@pytest.mark.parametrize(
    ("kind", "state", "column", "told"),
    [
        ("verify", "damaged", "damaged ", "chunk 25 is damaged ("),
        ("verify", "sound", "sound ", "nothing wrong was told"),
        ("repair", None, "repaired ", "nothing wrong was told"),
    ],
)
def test_what_an_earlier_dashboard_did_to_a_store_is_told(
    tmp_path, kind, state, column, told
):
    writer = STATES["federated"](tmp_path / "run")
    done = Operation(
        schema=1,
        id="1",
        kind=kind,
        stage="done",
        time_ns=writer.time_ns,
        by="ann@desk",
        subject="chunks/client-1",
        state=state,
        text="chunk 25 is damaged",
    )
    writer.run.operations.mkdir()
    (writer.run.operations / "desk-1.jsonl").write_bytes(encode_operation(done))

    walk = Walk(writer)
    shown = {store.node: store for store in walk.browser.stores(walk.view)}

    assert shown["client-1"].checked.startswith(column)
    assert told in walk.words("client-1")
