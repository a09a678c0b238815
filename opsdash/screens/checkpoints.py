"""Pane 3: which checkpoints there are, which can be trusted, and why not."""

from collections.abc import Callable
from typing import Any, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll

from opsdash import units
from opsdash.messages import ResumeRequested, VerifyRequested
from opsdash.projections.checkpoints import CheckpointRow
from opsdash.screens.pane import Pane, View
from opsdash.widgets.facts import Fact, Facts
from opsdash.widgets.rows import Cell, Column, FixedRows
from opsdash.widgets.table import VirtualTable
from opsdash.widgets.table_messages import SortRequested

_COLUMNS = (
    Column("checkpoint", 15, flex=2),
    Column("state", 11),
    Column("size", 9, align_right=True),
    Column("checked", 12, align_right=True),
    Column("saved in", 9, align_right=True, key="save"),
    Column("digest", 12, sortable=False),
    Column("resumable", 9, flex=3, sortable=False),
)
_STAGE_TONES = {
    "verified": "ok",
    "published": "warn",
    "damaged": "bad",
    "writing": "accent",
    "quarantined": "warn",
}
_ORDERS: dict[str, Callable[[CheckpointRow], Any]] = {
    "checkpoint": lambda row: row.number,
    "state": lambda row: row.stage,
    "size": lambda row: row.size_bytes or 0,
    "checked": lambda row: row.check.time_ns if row.check else 0,
    "save": lambda row: row.save_ns or 0,
}


class CheckpointsPane(Pane):
    """The list, and all that is known of the one under the cursor."""

    TITLE: ClassVar[str] = "checkpoints"
    DEFAULT_CSS = """
    CheckpointsPane {
        & > VirtualTable { height: 1fr; }
        & > VerticalScroll {
            height: auto;
            max-height: 50%;
            border-top: solid $panel;
            background: $background;
        }
    }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("v", "verify", "Verify"),
        Binding("V", "verify_all", "Verify all"),
        Binding("r", "resume", "Resume from it"),
    ]

    def __init__(self) -> None:
        super().__init__()
        self._rows: dict[str, CheckpointRow] = {}
        self._order = ("checkpoint", True)
        self._view: View | None = None

    def compose(self) -> ComposeResult:
        """Lay out the list and the details."""
        yield VirtualTable(_COLUMNS, empty="no checkpoint was saved yet")
        with VerticalScroll(can_focus=False):
            yield Facts()

    def show(self, view: View) -> None:
        """Show the run as it is now."""
        self._view = view
        column, descending = self._order
        rows = view.run.checkpoints.rows()
        if self._order != ("checkpoint", True):
            rows = sorted(rows, key=_ORDERS[column], reverse=descending)
        self._rows = {row.directory: row for row in rows}
        table = self.query_one(VirtualTable)
        table.show(
            FixedRows((row.directory, _cells(row, view)) for row in rows),
            sort=self._order,
        )
        self._show_details()

    def on_virtual_table_highlighted(self) -> None:
        """Show the details of the checkpoint under the cursor."""
        self._show_details()

    def on_virtual_table_sort_requested(self, event: SortRequested) -> None:
        """Put the checkpoints in another order."""
        self._order = (event.column, event.descending)
        if self._view is not None:
            self.show(self._view)

    def action_verify(self) -> None:
        """Read the marked checkpoints again, or the one under the cursor."""
        table = self.query_one(VirtualTable)
        marked = [name for name in self._rows if name in table.marked]
        here = self._highlighted()
        names = marked or ([here.directory] if here else [])
        if names:
            self.post_message(VerifyRequested(names))

    def action_verify_all(self) -> None:
        """Read every published checkpoint again."""
        names = [row.directory for row in self._rows.values() if row.is_published]
        if names:
            self.post_message(VerifyRequested(names))

    def action_resume(self) -> None:
        """Show what a resume from this checkpoint would do."""
        here = self._highlighted()
        self.post_message(ResumeRequested(here.directory if here else None))

    def text_to_copy(self) -> tuple[str, str] | None:
        """Return the digest of the checkpoint under the cursor."""
        here = self._highlighted()
        if here is None:
            return None
        return (here.digest, "digest") if here.digest else (here.directory, "name")

    def _highlighted(self) -> CheckpointRow | None:
        key = self.query_one(VirtualTable).cursor_key
        return self._rows.get(str(key)) if key is not None else None

    def _show_details(self) -> None:
        here = self._highlighted()
        facts = _details(here, self._view) if here and self._view else []
        self.query_one(Facts).show(facts)


def _cells(row: CheckpointRow, view: View) -> tuple[Cell, ...]:
    marks = " pinned" if row.is_pinned else ""
    marks += " latest" if row.is_latest else ""
    is_set_aside = not row.is_published
    return (
        Cell(row.directory + marks, "dim" if is_set_aside else ""),
        Cell(row.stage, _STAGE_TONES.get(row.stage, "dim")),
        Cell(units.byte_size(row.size_bytes)),
        Cell(_checked(row, view), "dim"),
        Cell(units.duration(row.save_ns), "dim"),
        Cell(_short(row.digest), "dim"),
        Cell(*_resumable(row)),
    )


def _checked(row: CheckpointRow, view: View) -> str:
    return units.ago(view.now_ns - row.check.time_ns) if row.check else "never"


def _resumable(row: CheckpointRow) -> tuple[str, str]:
    if row.why_not is None:
        return ("yes", "ok")
    return (f"no: {row.why_not}", "dim" if not row.is_published else "warn")


def _short(digest: str | None) -> str:
    return digest.partition(":")[2][:12] if digest else "-"


def _details(row: CheckpointRow, view: View) -> list[Fact]:
    facts = [
        Fact("resumable", *_resumable(row)),
        Fact("digest", row.digest or "none: no manifest could be read", "dim"),
    ]
    if row.check is not None:
        found = f": {row.check.text}" if row.check.text else ""
        text = f"{row.check.state} ({row.check.level}) {_checked(row, view)} by"
        tone = "ok" if row.check.state == "sound" else "bad"
        facts.append(Fact("checked", f"{text} {row.check.by}{found}", tone))
    if row.attempt is not None:
        why = f", saved for `{row.reason}`" if row.reason else ""
        facts.append(Fact("attempt", f"{row.attempt}{why}"))
    if row.save_ns is not None:
        facts.append(Fact("save", _phases(row)))
    if row.loaded_in:
        attempts = ", ".join(map(str, row.loaded_in))
        facts.append(Fact("loaded", f"by attempt {attempts}"))
    return facts


def _phases(row: CheckpointRow) -> str:
    phases = (
        ("write", row.write_ns),
        ("fsync", row.fsync_ns),
        ("publish", row.publish_ns),
        ("read back", row.verify_ns),
    )
    return ", ".join(f"{name} {units.duration(ns)}" for name, ns in phases if ns)
