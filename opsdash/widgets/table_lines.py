"""Draw the header and the rows of a table as lines of spans.

Pure. The first column stays when the others scroll sideways. A row has as few
changes of tone as its cells allow; the row under the cursor has none.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from opsdash.glyphs import Glyphs
from opsdash.widgets.rows import Cell, Column, widths
from opsdash.widgets.spans import Line, Span, fit

_NO_CELL = Cell("")


@dataclass(frozen=True)
class Layout:
    """Which columns are drawn, and how wide."""

    columns: Sequence[Column]
    places: tuple[tuple[int, int], ...]
    """Index and width of each column drawn, from the left."""
    width: int
    """Cells of a whole row, with the mark at its left."""
    more_left: bool
    more_right: bool
    glyphs: Glyphs

    @classmethod
    def of(
        cls, columns: Sequence[Column], width: int, first: int, glyphs: Glyphs
    ) -> "Layout":
        """Lay out column 0 and those from `first` on in `width` cells."""
        wide = widths(columns, width - 1)
        places: list[tuple[int, int]] = []
        left = width - 1
        more_right = False
        for index in (0, *range(max(1, first), len(columns))):
            if index >= len(columns):
                continue
            room = left - (1 if places else 0)
            if room < min(wide[index], 3):
                more_right = True
                break
            places.append((index, min(wide[index], room)))
            more_right = wide[index] > room
            left = room - places[-1][1]
        return cls(columns, tuple(places), width, first > 1, more_right, glyphs)

    def column_at(self, x: int) -> Column | None:
        """Return the column whose header is at cell `x`."""
        start = 1
        for index, width in self.places:
            if start <= x < start + width:
                return self.columns[index]
            start += width + 1
        return None

    def header(self, sort: tuple[str, bool] | None) -> Line:
        """Return the titles, an arrow at the column the rows are in order of."""
        glyphs = self.glyphs
        parts = []
        for index, width in self.places:
            column = self.columns[index]
            title = column.title
            if sort is not None and sort[0] == column.name:
                arrow = glyphs.descending if sort[1] else glyphs.ascending
                title = f"{fit(title, min(len(title), width - 1))}{arrow}"
            parts.append(fit(title, width, right=column.align_right))
        text = (glyphs.left if self.more_left else " ") + " ".join(parts)
        text = fit(text, self.width - self.more_right)
        return (Span(text + glyphs.right * self.more_right, "header"),)

    def row(self, cells: Sequence[Cell], *, marked: bool, tone: str) -> Line:
        """Return one row; a `tone` for the whole row overrides that of its cells."""
        mark = self.glyphs.marked if marked else " "
        spans = [Span(mark, tone or ("accent" if marked else ""))]
        for place, (index, width) in enumerate(self.places):
            cell = cells[index] if index < len(cells) else _NO_CELL
            text = fit(
                cell.text,
                width,
                ellipsis=self.glyphs.ellipsis,
                right=self.columns[index].align_right,
            )
            _add(spans, f" {text}" if place else text, tone or cell.tone)
        used = 1 + sum(width for _, width in self.places) + len(self.places) - 1
        _add(spans, " " * (self.width - used), tone)
        return tuple(spans)


def with_scroll_bar(
    header: Line,
    rows: Sequence[Line],
    layout: Layout,
    thumb: tuple[int, int] | None,
    page: int,
) -> list[Line]:
    """Return the lines with the bar at their right; without a `thumb`, as they are."""
    if thumb is None:
        return [header, *rows]
    blank: Line = (Span(" " * layout.width),)
    bar = [layout.glyphs.track] * page
    bar[slice(*thumb)] = [layout.glyphs.thumb] * (thumb[1] - thumb[0])
    padded = [*rows, *[blank] * (page - len(rows))]
    beside = zip(padded, bar, strict=True)
    return [
        (*header, Span(" ", "header")),
        *((*row, Span(part, "dim")) for row, part in beside),
    ]


def _add(spans: list[Span], text: str, tone: str) -> None:
    """Append to the last span where the tone does not change or does not show."""
    if spans[-1].tone == tone or not text.strip():
        spans[-1] = Span(spans[-1].text + text, spans[-1].tone)
    else:
        spans.append(Span(text, tone))
