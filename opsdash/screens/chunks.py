"""Pane 5: chunk stores, from node to round to chunk to the parts of tensors.

`enter` goes down, `backspace` up; where that leads is the browser's business.
On a data-parallel run it says why there is nothing. Missing and damaged chunks
come first wherever there are any.
"""

import contextlib
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.widgets import ContentSwitcher

from opsdash import messages
from opsdash.operations.renaming import parse_pairs
from opsdash.screens.ask_text import AskScreen, path_of
from opsdash.screens.chunk_browser import ChunkBrowser, Level, number
from opsdash.screens.chunk_table import ChunkTable
from opsdash.screens.pane import Pane, View
from opsdash.screens.store_fields import DIFF, PARTS, ROUNDS, STORES, Kept
from opsdash.widgets.facts import Fact, Facts
from opsdash.widgets.record_table import RecordTable
from opsdash.widgets.table import VirtualTable
from opsdash.widgets.table_messages import Selected

_NAMES = {level: level.name.lower() for level in Level}


class ChunksPane(Pane):
    """One table at a time, under a line that says where it stands."""

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

    class Answered(Message):
        """Something that was asked of the open store was read."""

        def can_replace(self, message: Message) -> bool:
            """One look takes all answers."""
            return isinstance(message, ChunksPane.Answered)

    def __init__(self) -> None:
        super().__init__()
        self.browser = ChunkBrowser(self._answered)
        self._view: View | None = None

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

    def on_unmount(self) -> None:
        """Let go of the stores."""
        self.browser.close()

    def show(self, view: View) -> None:
        """Show the run as it is now."""
        self._view = view
        why = view.run.chunks.why_empty(view.run.kind)
        is_empty = bool(why) and not self.browser.stores(view)
        self.query_one(ContentSwitcher).display = not is_empty
        self.query_one("#facts").display = not is_empty
        if is_empty:
            self.query_one("#where", Facts).show([Fact("empty", why or "")])
            return
        self.browser.look(view)
        self._fill()

    def focus_first(self) -> None:
        """The table that is shown is what is walked in."""
        if self.query_one(ContentSwitcher).display:
            self.focus_now(self._table)

    def offers(self, action: str) -> bool:
        """Leave keys to where there is something for them to act on."""
        if action in ("verify", "repair"):
            return self._node() is not None
        if action == "restore_round":
            return self._kept() is not None
        if action == "diff":
            return self._rounds_to_compare() is not None
        return action != "up" or self.browser.level is not Level.STORES

    @property
    def opens_rows(self) -> bool:
        """Parts of a chunk, and tensors that changed, have nothing below them."""
        return self.browser.level not in (Level.PARTS, Level.DIFF)

    @property
    def has_filter(self) -> bool:
        """The table that is shown, where there is one."""
        return bool(self.query_one(ContentSwitcher).display)

    def filter_rows(self) -> bool:
        """Begin to type a filter of the table that is shown."""
        if not self.has_filter:
            return False
        shown = self.query_one(f"#{_NAMES[self.browser.level]}")
        assert isinstance(shown, RecordTable | ChunkTable)
        shown.filter_rows()
        return True

    def text_to_copy(self) -> tuple[str, str] | None:
        """Return the digest of the round or chunk under the cursor."""
        browser, kept = self.browser, self._kept()
        if browser.level is Level.ROUNDS and kept is not None:
            return kept.row.digest, "digest"
        if browser.level in (Level.CHUNKS, Level.PARTS) and browser.store is not None:
            chunk = browser.store.chunk(browser.chunk_here(self._table.cursor_key))
            return (chunk.digest, "digest") if chunk else None
        return None

    def on_virtual_table_selected(self, event: Selected) -> None:
        """Go down into what is under the cursor."""
        event.stop()
        if self._view is not None and self.browser.enter(self._view, event.key):
            self._go()
        else:
            self._tell()

    def on_virtual_table_highlighted(self) -> None:
        """Tell more about the row under the cursor."""
        self._tell()

    def on_chunks_pane_answered(self) -> None:
        """Show what was read."""
        if self.browser.take():
            self._go()
        else:
            self._fill()
        store = self.browser.store
        if store is not None and store.diff_error is not None:
            self.notify(str(store.diff_error), severity="error", markup=False)
            store.diff_error = None

    def action_up(self) -> None:
        """Go to what this is a part of."""
        if self.browser.up():
            self._go()
        else:
            self._tell()

    def action_verify(self) -> None:
        """Read the marked stores again, the one under the cursor, or the open one."""
        table = self._records_of(Level.STORES)
        marked = sorted(str(key) for key in table.marked)
        if self.browser.store is not None:
            nodes = [self.browser.store.node]
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
        if node is None or kept is None:
            self.notify("open a node with enter and stand on a round")
            return
        round_num = kept.row.round_num

        def answered(fields: list[str] | None) -> None:
            if fields is not None:
                self._wish_to_restore(node, round_num, *fields)

        asked = {
            "to a .pt or .safetensors file, or `live`": f"{node}-round-{round_num}.pt",
            "only tensors like (* and ? stand for anything; empty: all)": "",
            "other names, as old=new with blanks between (empty: none)": "",
        }
        title = f"restore round {round_num} of {node}"
        self.app.push_screen(AskScreen(title, asked, check=_check_restore), answered)

    def _wish_to_restore(
        self, node: str, round_num: int, to: str, tensors: str, names: str
    ) -> None:
        wish = messages.RestoreRequested(
            node,
            round_num,
            to=None if to == "live" else path_of(to),
            tensors=tensors or None,
            mapping=parse_pairs(names),
        )
        self.post_message(wish)

    def action_diff(self) -> None:
        """Compare two marked rounds, or this one with the one before it."""
        chosen = self._rounds_to_compare()
        if self.browser.store is None or chosen is None:
            self.notify("open a node, then mark two rounds with m or stand on one")
            return
        self.browser.store.compare(*chosen)
        self._tell()

    def _rounds_to_compare(self) -> tuple[int, int] | None:
        table = self._records_of(Level.ROUNDS)
        marked = [number(key) for key in table.marked]
        return self.browser.two_rounds(marked, number(table.cursor_key))

    def _answered(self) -> None:
        """Say so from the reading thread; there may be no loop to hear it any more."""
        with contextlib.suppress(RuntimeError):
            self.post_message(self.Answered())

    def _go(self) -> None:
        """Show the level that the browser came to."""
        self.query_one(ContentSwitcher).current = _NAMES[self.browser.level]
        self._fill()
        self.focus_now(self._table)

    def _fill(self) -> None:
        """Show what the present level is about."""
        if self._view is None:
            return
        table = self.query_one(f"#{_NAMES[self.browser.level]}")
        if isinstance(table, ChunkTable):
            table.show(self.browser.store.chunks if self.browser.store else None)
        elif isinstance(table, RecordTable):
            table.show(self.browser.records(self._view))
        self._tell()

    def _tell(self) -> None:
        """Say where the browser stands, and more about the row under the cursor."""
        if self._view is None:
            return
        facts = self.browser.facts(self._view, self._table.cursor_key)
        self.query_one("#where", Facts).show(self.browser.where())
        self.query_one("#facts", Facts).show(facts)

    @property
    def _table(self) -> VirtualTable:
        return self.query_one(f"#{_NAMES[self.browser.level]}").query_one(VirtualTable)

    def _records_of(self, level: Level) -> RecordTable[object]:
        return self.query_one(f"#{_NAMES[level]}", RecordTable)

    def _node(self) -> str | None:
        """Return the node that is open, or the one under the cursor."""
        if self.browser.store is not None:
            return self.browser.store.node
        key = self._table.cursor_key
        return None if key is None else str(key)

    def _kept(self) -> Kept | None:
        """Return the round that is open, or the one under the cursor."""
        store = self.browser.store
        if store is None or self._view is None or self.browser.level is Level.STORES:
            return None
        here = number(self._records_of(Level.ROUNDS).cursor_key)
        if store.chunks is not None:
            here = store.chunks.round.round_num
        return self.browser.kept(self._view, here)


def _check_restore(fields: list[str]) -> None:
    """Refuse what no plan can be made of.

    Raises:
        ValueError: there is no such file, or a pair of names is none.
    """
    # Loaded for the first dialog: no screen needs it.
    from opsdash.operations.store_plans import SUFFIXES  # noqa: PLC0415 - see above

    to, _, names = fields
    if not to:
        raise ValueError("no file is named")
    if to != "live" and not to.endswith(SUFFIXES):
        raise ValueError(f"`{to}` is neither `live` nor a {' or '.join(SUFFIXES)} file")
    parse_pairs(names)
