"""BarrierBoard: who is in, who is missing, for how long; who was late last.

How long somebody waits is told by the owner, who has the clock. A hang is
visible while it lasts: nothing here waits for a barrier to be released.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from opsdash.glyphs import Glyphs, glyphs_of
from opsdash.units import duration, rank_ranges
from opsdash.widgets.canvas import joined
from opsdash.widgets.lines import LineWidget
from opsdash.widgets.spans import Line, Span, fit, within, wrap

_BAR_CELLS = 10
_NOBODY = "nobody waits at a barrier"
_STAND_ELSEWHERE = "nobody is at a barrier with a name; below: who stands still"
_NAME_CELLS = 18
"""A collective's name is longer than that of a barrier, and gets more where it is."""
_WIDE = 64
"""Below this width the bar goes: the words beside it say the same."""


@dataclass(frozen=True)
class OpenBarrier:
    """A barrier at which somebody waits now."""

    name: str
    arrived: Sequence[int]
    """Ranks that are in."""
    missing: Sequence[int]
    """Ranks that are not."""
    waited_ns: int
    """Since the first arrival."""
    limit_ns: int | None = None
    """After this it counts as hung; None if it has no limit."""

    @property
    def tone(self) -> str:
        """How bad it is: past its limit, past half of it, or neither."""
        if self.limit_ns is None:
            return ""
        if self.waited_ns >= self.limit_ns:
            return "bad"
        return "warn" if 2 * self.waited_ns >= self.limit_ns else ""


class BarrierBoard(LineWidget):
    """Open barriers, then a bar per rank for its lateness at the last one."""

    def __init__(
        self,
        *,
        id: str | None = None,  # noqa: A002 - Textual's name for it
        classes: str | None = None,
    ) -> None:
        super().__init__(id=id, classes=classes)
        self.barriers: tuple[OpenBarrier, ...] = ()
        self.others_stand = False
        self.lateness_ns: tuple[int | None, ...] = ()

    def show(
        self,
        barriers: Sequence[OpenBarrier],
        lateness_ns: Sequence[int | None],
        *,
        others_stand: bool = False,
    ) -> None:
        """Replace what is shown.

        Args:
            barriers: Where somebody waits.
            lateness_ns: By rank, None where not measured.
            others_stand: Whether somebody stands still who told of no barrier.
        """
        self.barriers = tuple(barriers)
        self.others_stand = others_stand
        self.lateness_ns = tuple(lateness_ns)
        self.changed()

    def lines(self, width: int, height: int) -> list[Line]:  # noqa: ARG002 - as high as it needs
        """Return two or more lines per barrier, then the strip of ranks."""
        glyphs = glyphs_of(self.app)
        lines: list[Line] = []
        longest = max((len(one.name) for one in self.barriers), default=0)
        room = min(max(6, width // 4), max(_NAME_CELLS, longest))
        for barrier in self.barriers:
            lines.extend(_barrier_lines(barrier, room, width, glyphs))
        if not self.barriers:
            nobody = _STAND_ELSEWHERE if self.others_stand else _NOBODY
            lines.append((Span(nobody, "dim"),))
        return [*lines, *_strip_lines(self.lateness_ns, width, glyphs)]


def _barrier_lines(
    barrier: OpenBarrier, room: int, width: int, glyphs: Glyphs
) -> list[Line]:
    mark = glyphs.dead if barrier.tone == "bad" else glyphs.degraded
    mark = mark if barrier.tone else glyphs.healthy
    waited = duration(barrier.waited_ns)
    limit = f" of {duration(barrier.limit_ns)}" if barrier.limit_ns else ""
    bar = _bar(barrier, glyphs) if width >= _WIDE else ""
    num_all = len(barrier.arrived) + len(barrier.missing)
    head = (
        Span(f"{mark} ", barrier.tone),
        Span(fit(barrier.name, room, ellipsis=glyphs.ellipsis)),
        Span(f" {len(barrier.arrived)}/{num_all} in  "),
        Span(f"{bar}{waited}{limit}", barrier.tone),
    )
    missing = rank_ranges(barrier.missing, most=12)
    text = f"missing: {missing}" if missing else "all in, not released yet"
    tone = barrier.tone or ("warn" if missing else "dim")
    rest = [(Span("  "), Span(part, tone)) for part in wrap(text, max(8, width - 2))]
    return [within(head, width, glyphs.ellipsis), *rest]


def _bar(barrier: OpenBarrier, glyphs: Glyphs) -> str:
    if not barrier.limit_ns:
        return ""
    share = min(1.0, max(0.0, barrier.waited_ns / barrier.limit_ns))
    done = int(share * _BAR_CELLS)
    return glyphs.done * done + glyphs.to_do * (_BAR_CELLS - done) + " "


def _strip_lines(
    lateness_ns: Sequence[int | None], width: int, glyphs: Glyphs
) -> list[Line]:
    known = [(late, rank) for rank, late in enumerate(lateness_ns) if late is not None]
    if not known:
        return []
    worst, straggler = max(known)
    cells = []
    for rank, late in enumerate(lateness_ns):
        if late is None:
            cells.append((glyphs.blind, "dim"))
            continue
        height = late * (len(glyphs.bars) - 1) // worst if worst > 0 else 0
        tone = "bad" if rank == straggler and worst > 0 else "accent"
        cells.append((glyphs.bars[max(0, height)], tone))
    words = "in step"
    if worst > 0:
        words = f"rank {straggler} last, {duration(worst)} after the first"
    rows = [cells[i : i + width] for i in range(0, len(cells), width)]
    return [
        within([Span("last barrier: ", "dim"), Span(words)], width, glyphs.ellipsis),
        *(joined(row) for row in rows),
    ]
