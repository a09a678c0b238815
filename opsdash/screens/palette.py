"""What the palette offers beside Textual's own: every pane and every checkpoint."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

from textual.app import SystemCommand

from opsdash.projections.checkpoints import CheckpointRow
from opsdash.screens.watch import PANES

_MAX_CHECKPOINTS = 50


def palette_commands(
    rows: Sequence[CheckpointRow],
    show_pane: Callable[[int], object],
    verify: Callable[[tuple[str, ...]], object],
) -> Iterator[SystemCommand]:
    """Return a command per pane, then one per published checkpoint, newest first."""
    for index, pane in enumerate(PANES):
        yield SystemCommand(
            f"show {pane.TITLE}", f"key {index + 1}", partial(show_pane, index)
        )
    published = [row for row in rows if row.is_published]
    for row in published[:_MAX_CHECKPOINTS]:
        name = row.directory
        yield SystemCommand(f"verify {name}", row.stage, partial(verify, (name,)))
