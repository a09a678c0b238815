"""Pane 5: chunk stores, from node to round to chunk to the parts of tensors.

`enter` goes down, `backspace` up. On a data-parallel run it says why there is
nothing. Missing and damaged chunks come first wherever there are any.
"""

from enum import IntEnum
from pathlib import Path
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.widgets import ContentSwitcher

from agent.rundir.chunks.sources import stores_in
from agent.rundir.errors import RunDirError
from agent.rundir.layout import RunDir
from opsdash import messages
from opsdash.operations.diff_rounds import RoundsDiff, diff_rounds
from opsdash.screens.ask_text import AskScreen
from opsdash.screens.chunk_facts import (
    chunk_facts,
    diff_facts,
    round_facts,
    store_facts,
)
from opsdash.screens.chunk_table import ChunkTable, say_scan
from opsdash.screens.pane import Pane, View
from opsdash.screens.store_fields import (
    DIFF,
    PARTS,
    ROUNDS,
    STORES,
    Kept,
    Store,
    bad_digests,
    checked_before,
    num_findings,
    verdict_of,
)
from opsdash.screens.store_view import StoreView
from opsdash.widgets.facts import Fact, Facts
from opsdash.widgets.record_table import RecordTable
from opsdash.widgets.table import VirtualTable
from opsdash.widgets.table_messages import Selected


class Level(IntEnum):
    """How deep the browser stands."""

    STORES = 0
    ROUNDS = 1
    CHUNKS = 2
    PARTS = 3
    DIFF = 4
    """Beside the chunks: two rounds compared."""


_NAMES = {level: level.name.lower() for level in Level}


class ChunksPane(Pane):
    """One table at a time, under a line that says where it stands."""

    TITLE: ClassVar[str] = "chunks"
    DEFAULT_CSS = """
    ChunksPane {
        & > #where { height: auto; }
        & > ContentSwitcher { height: 1fr; }
        & > #facts { height: auto; max-height: 40%; border-top: solid $panel; }
    }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("v", "verify", "Verify store"),
        Binding("F", "repair", "Repair"),
        Binding("R", "restore_round", "Restore"),
        Binding("equals_sign", "diff", "Compare"),
        Binding("backspace,escape", "up", "Up"),
    ]

    def __init__(self) -> None:
        super().__init__()
        self._level = Level.STORES
        self._view: View | None = None
        self._store: StoreView | None = None
        self._chunk_id = 0
        self._diff: RoundsDiff | None = None

    def compose(self) -> ComposeResult:
        """Lay out where it stands, the tables, and what is known of the row."""
        yield Facts(id="where")
        with ContentSwitcher(initial=_NAMES[Level.STORES]):
            yield RecordTable(
                STORES,
                key=lambda store: store.node,
                empty="no store yet",
                sort=("state", False),
                id=_NAMES[Level.STORES],
            )
            yield RecordTable(
                ROUNDS,
                key=lambda kept: kept.row.round_num,
                empty="no round is kept here",
                id=_NAMES[Level.ROUNDS],
            )
            yield ChunkTable(id=_NAMES[Level.CHUNKS])
            yield RecordTable(
                PARTS,
                key=lambda part: (part.name, part.flat_start),
                empty="this chunk holds nothing",
                id=_NAMES[Level.PARTS],
            )
            yield RecordTable(
                DIFF,
                key=lambda one: one.name,
                empty="no tensor",
                sort=("chunks changed", True),
                id=_NAMES[Level.DIFF],
            )
        yield Facts(id="facts")

    def show(self, view: View) -> None:
        """Show the run as it is now."""
        self._view = view
        why = view.run.chunks.why_empty(view.run.kind)
        is_empty = bool(why) and not _stores(view)
        self.query_one(ContentSwitcher).display = not is_empty
        self.query_one("#facts").display = not is_empty
        if is_empty:
            self.query_one("#where", Facts).show([Fact("empty", why or "")])
            return
        self._fill()

    def focus_first(self) -> None:
        """The table that is shown is what is walked in."""
        if self.query_one(ContentSwitcher).display:
            self.focus_now(self._table)

    def filter_rows(self) -> bool:
        """Begin to type a filter of the table that is shown."""
        shown = self.query_one(f"#{_NAMES[self._level]}")
        assert isinstance(shown, RecordTable | ChunkTable)
        shown.filter_rows()
        return True

    def text_to_copy(self) -> tuple[str, str] | None:
        """Return the digest of the round or chunk under the cursor."""
        kept = self._kept()
        if self._level is Level.ROUNDS and kept is not None:
            return kept.row.digest, "digest"
        if self._level in (Level.CHUNKS, Level.PARTS) and self._store is not None:
            chunk = self._store.chunk(self._chunk_here())
            return (chunk.digest, "digest") if chunk else None
        return None

    def on_virtual_table_selected(self, event: Selected) -> None:
        """Go down into what is under the cursor."""
        event.stop()
        if self._level is Level.STORES:
            self._open_store(str(event.key))
        elif self._level is Level.ROUNDS and self._store is not None:
            if self._store.open_round(_number(event.key)):
                self._go(Level.CHUNKS)
        elif self._level is Level.CHUNKS:
            self._chunk_id = _number(event.key)
            self._go(Level.PARTS)

    def on_virtual_table_highlighted(self) -> None:
        """Tell more about the row under the cursor."""
        self._tell()

    def action_up(self) -> None:
        """Go to what this is a part of."""
        if self._level in (Level.PARTS, Level.CHUNKS):
            self._go(Level(self._level - 1))
        elif self._level is Level.DIFF:
            self._go(Level.ROUNDS)
        elif self._level is Level.ROUNDS and self._store is not None:
            self._store.close()
            self._store = None
            self._go(Level.STORES)

    def action_verify(self) -> None:
        """Read the marked stores again, the one under the cursor, or the open one."""
        table = self.query_one(f"#{_NAMES[Level.STORES]}", RecordTable)
        marked = sorted(str(key) for key in table.marked)
        if self._store is not None:
            nodes = [self._store.node]
        else:
            nodes = marked or [str(key) for key in (table.cursor_key,) if key]
        if nodes:
            self.post_message(messages.StoreVerifyRequested(nodes))

    def action_repair(self) -> None:
        """Show what mending the store from other nodes would do."""
        node = self._node()
        if node is not None:
            self.post_message(messages.RepairRequested(node))

    def action_restore_round(self) -> None:
        """Ask where a round shall be put back to, then show what that would do."""
        node, kept = self._node(), self._kept()
        if node is None or kept is None or self._level is Level.STORES:
            self.notify("open a node with enter and stand on a round")
            return
        round_num = kept.row.round_num

        def answered(fields: list[str] | None) -> None:
            if fields and fields[0]:
                to = None if fields[0] == "live" else Path(fields[0]).expanduser()
                tensors = fields[1] or None
                wish = messages.RestoreRequested(
                    node, round_num, to=to, tensors=tensors
                )
                self.post_message(wish)

        asked = {
            "to a .pt or .safetensors file, or `live`": f"{node}-round-{round_num}.pt",
            "only tensors like (* and ? stand for anything; empty: all)": "",
        }
        title = f"restore round {round_num} of {node}"
        self.app.push_screen(AskScreen(title, asked), answered)

    def action_diff(self) -> None:
        """Compare two marked rounds, or this one with the one before it."""
        chosen = self._two_rounds()
        if self._store is None or chosen is None:
            self.notify("open a node, then mark two rounds with m or stand on one")
            return
        old, new = sorted(chosen)
        try:
            self._diff = diff_rounds(self._store.path, old, new)
        except RunDirError as error:
            self.notify(str(error), severity="error", markup=False)
            return
        self._go(Level.DIFF)

    def _open_store(self, node: str) -> None:
        if self._view is None:
            return
        path = RunDir(Path(self._view.run.directory.path)).chunk_store(node)
        self._store = StoreView(node, path)
        self._go(Level.ROUNDS)

    def _go(self, level: Level) -> None:
        if level < Level.CHUNKS and self._store is not None:
            self._store.leave_round()
        self._level = level
        self.query_one(ContentSwitcher).current = _NAMES[level]
        self._fill()
        self.focus_now(self._table)

    def _fill(self) -> None:
        """Show what the present level is about."""
        view = self._view
        if view is None:
            return
        table = self.query_one(f"#{_NAMES[self._level]}")
        if isinstance(table, ChunkTable):
            chunks = self._store.chunks if self._store else None
            if chunks is not None and self._store is not None:
                verdict = verdict_of(view.stores, self._store.node)
                chunks.know_damaged(bad_digests(verdict))
            table.show(chunks)
        elif isinstance(table, RecordTable):
            table.show(self._records(view))
        self._tell()

    def _records(self, view: View) -> list[object]:
        store = self._store
        if self._level is Level.STORES:
            return list(_stores(view))
        if self._level is Level.ROUNDS and store is not None:
            verdict = verdict_of(view.stores, store.node)
            return [
                Kept(row, view.now_ns - row.created_ns, num_findings(verdict, row))
                for row in store.rounds()
            ]
        if self._level is Level.PARTS and store is not None:
            chunk = store.chunk(self._chunk_id)
            return list(chunk.parts) if chunk else []
        return list(self._diff.tensors) if self._diff else []

    def _tell(self) -> None:
        """Say where the browser stands, and more about the row under the cursor."""
        view, store = self._view, self._store
        if view is None:
            return
        self.query_one("#where", Facts).show(self._where())
        facts: list[Fact] = []
        if self._level is Level.STORES:
            facts = store_facts(view, str(self._table.cursor_key or ""))
        elif self._level is Level.ROUNDS and store is not None:
            kept = self._kept()
            facts = round_facts(kept) if kept else []
            facts += [Fact("cannot", store.error, "bad")] if store.error else []
        elif self._level is Level.DIFF and self._diff is not None:
            facts = diff_facts(self._diff)
        elif store is not None and store.chunks is not None:
            chunk = store.chunk(self._chunk_here())
            verdict = verdict_of(view.stores, store.node)
            facts = chunk_facts(chunk, store.chunks, verdict) if chunk else []
        self.query_one("#facts", Facts).show(facts)

    def _where(self) -> list[Fact]:
        if self._store is None:
            return [Fact("stores", "enter opens one, v reads it again", "dim")]
        parts = [self._store.node]
        chunks = self._store.chunks
        if chunks is not None:
            parts.append(f"round {chunks.round.round_num}")
            if self._level is Level.PARTS:
                parts.append(f"chunk {self._chunk_id}")
            else:
                parts.append(say_scan(chunks))
        if self._level is Level.DIFF and self._diff is not None:
            old, new = self._diff.old_round, self._diff.new_round
            parts.append(f"round {old} beside round {new}")
        return [Fact("here", " > ".join(parts), "strong")]

    @property
    def _table(self) -> VirtualTable:
        return self.query_one(f"#{_NAMES[self._level]}").query_one(VirtualTable)

    def _chunk_here(self) -> int:
        if self._level is Level.PARTS:
            return self._chunk_id
        return _number(self._table.cursor_key)

    def _node(self) -> str | None:
        if self._store is not None:
            return self._store.node
        key = self._table.cursor_key if self._level is Level.STORES else None
        return None if key is None else str(key)

    def _kept(self) -> Kept | None:
        """Return the round under the cursor, or the one that is open."""
        store = self._store
        if store is None or self._view is None:
            return None
        wanted = _number(
            self.query_one(f"#{_NAMES[Level.ROUNDS]}", RecordTable).cursor_key
        )
        if store.chunks is not None:
            wanted = store.chunks.round.round_num
        row = next((row for row in store.rounds() if row.round_num == wanted), None)
        if row is None:
            return None
        verdict = verdict_of(self._view.stores, store.node)
        age_ns = self._view.now_ns - row.created_ns
        return Kept(row, age_ns, num_findings(verdict, row))

    def _two_rounds(self) -> tuple[int, int] | None:
        store = self._store
        if store is None or self._level is not Level.ROUNDS:
            return None
        table = self.query_one(f"#{_NAMES[Level.ROUNDS]}", RecordTable)
        marked = [_number(key) for key in table.marked]
        if len(marked) == 2:
            return marked[0], marked[1]
        here = _number(table.cursor_key)
        older = [row.round_num for row in store.rounds() if row.round_num < here]
        return (max(older), here) if older else None


def _stores(view: View) -> list[Store]:
    """Return every node that told of a store or has one on the disk."""
    told = {row.node: row for row in view.run.chunks.rows()}
    on_disk = [node for node, _ in stores_in(Path(view.run.directory.path))]
    return [
        Store(
            node,
            told.get(node),
            verdict_of(view.stores, node),
            checked_before(view, node),
        )
        for node in dict.fromkeys([*told, *on_disk])
    ]


def _number(key: object) -> int:
    return key if isinstance(key, int) else -1
