"""Pane 3: which checkpoints there are, which can be trusted, and why not."""

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll

from opsdash import messages, units
from opsdash.projections.checkpoints import PRUNED, CheckpointRow
from opsdash.screens.checkpoint_facts import checked, checkpoint_facts, resumable
from opsdash.screens.pane import Pane, View
from opsdash.widgets.facts import Facts
from opsdash.widgets.record_table import Field, RecordTable
from opsdash.widgets.rows import Cell, Column

_STAGE_TONES = {
    "verified": "ok",
    "published": "warn",
    "damaged": "bad",
    "writing": "accent",
    "quarantined": "warn",
}


_NONE_YET = "no checkpoint was saved yet"
_NOT_HERE = "a federation keeps each round in chunk stores: 5 shows them"


class CheckpointsPane(Pane):
    """The list, and all that is known of the one under the cursor."""

    DEFAULT_CSS = """
    CheckpointsPane {
        & > RecordTable { height: 1fr; }
        & > VerticalScroll {
            height: auto;
            max-height: 50%;
            border-top: solid $panel;
            background: $background;
            scrollbar-size-vertical: 1;
        }
    }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("v", "verify", "Verify"),
        Binding("V", "verify_all", "Verify all", show=False),
        Binding("d", "verify_deep", "Verify deep"),
        Binding("r", "resume", "Resume from it"),
        Binding("P", "pin", "Pin"),
        Binding("equals_sign", "compare", "Compare"),
    ]

    def __init__(self) -> None:
        super().__init__()
        self._rows: dict[str, CheckpointRow] = {}
        self._view: View | None = None

    def compose(self) -> ComposeResult:
        """Lay out the list and the details."""
        yield RecordTable(
            self._fields(),
            key=lambda row: row.directory,
            empty=_NONE_YET,
        )
        with VerticalScroll(can_focus=False):
            yield Facts()

    def show(self, view: View) -> None:
        """Show the run as it is now; those that are there before those that were."""
        self._view = view
        rows = sorted(view.run.checkpoints.rows(), key=lambda row: not row.is_published)
        self._rows = {row.directory: row for row in rows}
        table = self.query_one(RecordTable)
        table.empty = _NOT_HERE if view.run.kind == "federated" else _NONE_YET
        table.show(rows)
        self._show_details()

    def offers(self, action: str) -> bool:
        """Leave what needs its bytes to a checkpoint that is there."""
        if action in ("verify", "verify_deep"):
            return bool(self._to_verify())
        if action == "compare":
            return self._two() is not None
        here = self._here()
        if action in ("resume", "pin"):
            return here is not None and here.is_published
        return True

    @property
    def opens_rows(self) -> bool:
        """Whether there is a row to open."""
        return self._here() is not None

    def words_of(self, action: str) -> str | None:
        """Say that a pin can be taken back."""
        here = self._here()
        is_pinned = here is not None and here.is_pinned
        return "Unpin" if action == "pin" and is_pinned else None

    @property
    def has_filter(self) -> bool:
        """The checkpoints."""
        return True

    def filter_rows(self) -> bool:
        """Begin to type a filter."""
        self.query_one(RecordTable).filter_rows()
        return True

    def on_virtual_table_selected(self) -> None:
        """Go to what happened at the step, or in the round, that it holds."""
        here = self._here()
        if here is None or self._view is None or here.number < 0:
            return
        if self._view.run.kind == "federated":
            self.post_message(messages.RoundOpened(here.number, None))
        else:
            self.post_message(messages.StepOpened(here.number, None))

    def on_virtual_table_highlighted(self) -> None:
        """Show the details of the checkpoint under the cursor."""
        self._show_details()

    def action_verify(self) -> None:
        """Read the marked checkpoints again, or the one under the cursor."""
        self._verify(is_deep=False)

    def action_verify_deep(self) -> None:
        """Look at the values too, in a process with torch."""
        self._verify(is_deep=True)

    def action_verify_all(self) -> None:
        """Read every published checkpoint again."""
        names = [row.directory for row in self._rows.values() if row.is_published]
        if names:
            self.post_message(messages.VerifyRequested(names))

    def action_resume(self) -> None:
        """Show what a resume from this checkpoint would do."""
        here = self._here()
        if here is not None and here.stage == PRUNED:
            self._tell_gone(here)
            return
        self.post_message(messages.ResumeRequested(here.directory if here else None))

    def action_pin(self) -> None:
        """Keep this checkpoint from retention, or let it go again."""
        here = self._here()
        if here is not None and not here.is_published:
            self._tell_gone(here)
        elif here is not None:
            wish = messages.PinRequested(here.directory, is_pinned=not here.is_pinned)
            self.post_message(wish)

    def action_compare(self) -> None:
        """Compare two marked checkpoints, or this one with the one before it."""
        chosen = self._two()
        if chosen is None:
            self.notify("mark two with m, or stand on one that has an older one")
            return
        old, new = sorted(chosen, key=lambda row: row.number)
        self.post_message(messages.CompareRequested(old.directory, new.directory))

    def text_to_copy(self) -> tuple[str, str] | None:
        """Return the digest of the checkpoint under the cursor."""
        here = self._here()
        if here is None:
            return None
        return (here.digest, "digest") if here.digest else (here.directory, "name")

    def _verify(self, *, is_deep: bool) -> None:
        names, here = self._to_verify(), self._here()
        if names:
            self.post_message(messages.VerifyRequested(names, is_deep=is_deep))
        elif here is not None:
            self._tell_gone(here)

    def _to_verify(self) -> list[str]:
        """Return the marked checkpoints, or the one here; those that are there."""
        here = self._here()
        chosen = [self._rows[name] for name in self._marked()] or (
            [here] if here else []
        )
        return [row.directory for row in chosen if row.stage != PRUNED]

    def _tell_gone(self, row: CheckpointRow) -> None:
        self.notify(f"{row.directory} is {row.stage}: {row.why_not}", markup=False)

    def _marked(self) -> list[str]:
        marked = self.query_one(RecordTable).marked
        return [name for name in self._rows if name in marked]

    def _two(self) -> tuple[CheckpointRow, CheckpointRow] | None:
        marked = [self._rows[name] for name in self._marked()]
        if len(marked) == 2:
            return marked[0], marked[1]
        here = self._here()
        if here is None or not here.is_published:
            return None
        older = [
            row
            for row in self._rows.values()
            if row.is_published and row.number < here.number
        ]
        if not older:
            return None
        return here, max(older, key=lambda row: row.number)

    def _here(self) -> CheckpointRow | None:
        key = self.query_one(RecordTable).cursor_key
        return self._rows.get(str(key)) if key is not None else None

    def _show_details(self) -> None:
        here = self._here()
        facts = checkpoint_facts(here, self._view) if here and self._view else []
        self.query_one(Facts).show(facts)

    def _fields(self) -> tuple[Field[CheckpointRow], ...]:
        return (
            Field(
                Column("checkpoint", 15, flex=1),
                lambda row: Cell(row.directory, "" if row.is_published else "dim"),
                lambda row: row.number,
            ),
            Field(
                Column("state", 11),
                lambda row: Cell(row.stage, _STAGE_TONES.get(row.stage, "dim")),
                lambda row: row.stage,
            ),
            Field(Column("is", 7), _marks, lambda row: (row.is_latest, row.is_pinned)),
            Field(
                Column("size", 9, align_right=True),
                lambda row: Cell(units.byte_size(row.size_bytes)),
                lambda row: row.size_bytes or 0,
            ),
            Field(Column("checked", 10, align_right=True), self._checked, _checked_ns),
            Field(
                Column("saved in", 9, align_right=True),
                lambda row: Cell(units.duration(row.save_ns), "dim"),
                lambda row: row.save_ns or 0,
            ),
            Field(
                Column("resumable", 9, flex=2),
                lambda row: Cell(*resumable(row)),
                lambda row: row.why_not or "",
            ),
        )

    def _checked(self, row: CheckpointRow) -> Cell:
        return Cell(checked(row, self._view) if self._view else "", "dim")


def _marks(row: CheckpointRow) -> Cell:
    marks = ["latest"] if row.is_latest else []
    marks += ["pinned"] if row.is_pinned else []
    text = "latest+" if len(marks) == 2 else "".join(marks)
    return Cell(text, "accent")


def _checked_ns(row: CheckpointRow) -> int:
    return row.check.time_ns if row.check else 0
