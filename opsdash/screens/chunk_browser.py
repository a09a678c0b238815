"""Where the browser of chunk stores stands, and what there is to see from there.

From node to round to chunk to the parts of tensors; beside the rounds, two of
them compared. It knows no widget: the pane hands it keys of rows and shows what
it returns.
"""

from collections.abc import Callable
from enum import IntEnum
from pathlib import Path

from agent.rundir.errors import RunDirError
from agent.rundir.layout import RunDir
from agent.rundir.operations import Operation
from opsdash.operations.stores_now import StoresNow
from opsdash.projections.chunks import StoreRow
from opsdash.screens.chunk_facts import (
    chunk_facts,
    diff_facts,
    round_facts,
    store_facts,
)
from opsdash.screens.chunk_table import say_scan
from opsdash.screens.pane import View
from opsdash.screens.store_fields import (
    Kept,
    Store,
    bad_digests,
    done_before,
    num_findings,
    say_done,
    verdict_of,
)
from opsdash.screens.store_view import StoreView
from opsdash.widgets.facts import Fact


class Level(IntEnum):
    """How deep the browser stands."""

    STORES = 0
    ROUNDS = 1
    CHUNKS = 2
    PARTS = 3
    DIFF = 4
    """Beside the chunks: two rounds compared."""


class ChunkBrowser:
    """A place in the chunk stores of a run."""

    def __init__(self, on_answer: Callable[[], None]) -> None:
        """Stand before all stores; `on_answer` is called in a reading thread."""
        self.level = Level.STORES
        self.store: StoreView | None = None
        self.chunk_id = 0
        self._on_answer = on_answer
        self._now = StoresNow(on_answer)

    def enter(self, view: View, key: object) -> bool:
        """Go down into the row with a key; False: it is not there, or not yet."""
        if self.level is Level.STORES:
            self.leave()
            path = RunDir(Path(view.run.directory.path)).chunk_store(str(key))
            self.store = StoreView(str(key), path, self._on_answer)
            return False
        if self.level is Level.ROUNDS and self.store is not None:
            is_open = self.store.open_round(number(key))
            self.level = Level.CHUNKS if is_open else self.level
            return is_open
        if self.level is Level.CHUNKS:
            self.chunk_id, self.level = number(key), Level.PARTS
            return True
        return False

    def take(self) -> bool:
        """Take over what was read; True: that led to another level."""
        self._now.take()
        store, before = self.store, self.level
        if store is None:
            return False
        was_comparing = store.comparing
        store.take()
        if self.level is Level.STORES and store.rounds is not None:
            self.level = Level.ROUNDS
        elif self.level is Level.ROUNDS and was_comparing and not store.comparing:
            self.level = Level.ROUNDS if store.diff_error else Level.DIFF
        return self.level is not before

    def up(self) -> bool:
        """Go to what this is a part of, or give a comparison up; False: nowhere."""
        store, before = self.store, self.level
        if store is not None and store.comparing is not None:
            store.stop_comparing()
            return True
        if self.level in (Level.PARTS, Level.CHUNKS):
            self.level = Level(self.level - 1)
        elif self.level is Level.DIFF:
            self.level = Level.ROUNDS
        else:
            self.leave()
        if self.level < Level.CHUNKS and store is not None:
            store.leave_round()
        return self.level is not before

    def leave(self) -> None:
        """Stand before all stores, and let go of the one that is open."""
        if self.store is not None:
            self.store.close()
        self.store, self.level = None, Level.STORES

    def close(self) -> None:
        """Let go of everything: nobody will look again."""
        self.leave()
        self._now.stop()

    def look(self, view: View) -> None:
        """Have read again what may have changed, and pass on what a run tells."""
        if self.level is Level.STORES:
            directory = view.run.directory
            run = RunDir(Path(directory.path))
            self._now.look(run, directory.stores, view.now_mono_ns)
        if self.store is None:
            return
        if self.level is Level.ROUNDS:
            self.store.refresh()
        if self.store.chunks is not None:
            verdict = verdict_of(view.stores, self.store.node)
            self.store.chunks.know_damaged(bad_digests(verdict))

    def records(self, view: View) -> list[object]:
        """Return the rows of the present level; of chunks there is a model instead."""
        store = self.store
        if self.level is Level.STORES or store is None:
            return list(self.stores(view))
        if self.level is Level.ROUNDS:
            kept = (self.kept(view, row.round_num) for row in store.rounds or ())
            return [one for one in kept if one is not None]
        if self.level is Level.PARTS:
            chunk = store.chunk(self.chunk_id)
            return list(chunk.parts) if chunk else []
        return list(store.diff.tensors) if store.diff else []

    def stores(self, view: View) -> list[Store]:
        """Return every node that told of a store or has one on the disk."""
        told = {row.node: row for row in view.run.chunks.rows()}
        done = done_before(view)
        return [
            self._store(view, node, told.get(node), done.get(node))
            for node in dict.fromkeys([*told, *view.run.directory.stores])
        ]

    def kept(self, view: View, round_num: int) -> Kept | None:
        """Return a round of the open store; None: it is not there."""
        row = self.store.round(round_num) if self.store is not None else None
        if row is None or self.store is None:
            return None
        verdict = verdict_of(view.stores, self.store.node)
        return Kept(row, view.now_ns - row.created_ns, num_findings(verdict, row))

    def two_rounds(self, marked: list[int], here: int) -> tuple[int, int] | None:
        """Return which to compare: two marked ones, or one and the one before."""
        if self.store is None or self.level is not Level.ROUNDS:
            return None
        if len(marked) == 2:
            return min(marked), max(marked)
        nums = [row.round_num for row in self.store.rounds or ()]
        older = [num for num in nums if num < here]
        return (max(older), here) if older else None

    def where(self) -> list[Fact]:
        """Say where the browser stands."""
        store = self.store
        if store is None:
            return [Fact("stores", "enter opens one, v reads it again", "dim")]
        if self.level is Level.STORES:
            return [Fact("opening", store.node, "dim")]
        parts = [store.node]
        if store.chunks is not None:
            parts.append(f"round {store.chunks.round.round_num}")
            if self.level is Level.PARTS:
                parts.append(f"chunk {self.chunk_id}")
            else:
                parts.append(say_scan(store.chunks))
        if self.level is Level.DIFF and store.diff is not None:
            old, new = store.diff.old_round, store.diff.new_round
            parts.append(f"round {old} beside round {new}")
        if store.comparing is not None:
            old, new = store.comparing
            parts.append(f"comparing round {old} with round {new}, escape stops")
        return [Fact("here", " > ".join(parts), "strong")]

    def facts(self, view: View, key: object) -> list[Fact]:
        """Tell more about the row with a key."""
        store = self.store
        if self.level is Level.STORES or store is None:
            return store_facts(view, str(key or ""))
        if self.level is Level.ROUNDS:
            kept = self.kept(view, number(key))
            facts = round_facts(kept) if kept else []
            return facts + ([Fact("cannot", store.error, "bad")] if store.error else [])
        if self.level is Level.DIFF:
            return diff_facts(store.diff) if store.diff else []
        chunk = store.chunk(self.chunk_here(key))
        if chunk is None or store.chunks is None:
            return []
        return chunk_facts(chunk, store.chunks, verdict_of(view.stores, store.node))

    def chunk_here(self, key: object) -> int:
        """Return the chunk under the cursor, or the one that is open."""
        return self.chunk_id if self.level is Level.PARTS else number(key)

    def _store(
        self, view: View, node: str, told: StoreRow | None, done: Operation | None
    ) -> Store:
        verdict, found = verdict_of(view.stores, node), self._now.found.get(node)
        store = Store(node, told, verdict, say_done(done, view.now_ns))
        if isinstance(found, RunDirError):
            return store._replace(why_unread=str(found))
        return store._replace(now=found)


def number(key: object) -> int:
    """Return the key of a row as the number that it is; -1: it is none."""
    return key if isinstance(key, int) else -1
