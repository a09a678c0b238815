"""What stands around a plot: its legend above, its labels left and below.

Pure.
"""

import math
from collections.abc import Sequence

from opsdash.glyphs import Glyphs
from opsdash.units import number
from opsdash.widgets.axes import StepAxis, ValueAxis
from opsdash.widgets.series import Series
from opsdash.widgets.spans import Line, Span, within


def legend(
    heading: str,
    series: Sequence[Series],
    x: float | None,
    note: Span,
    glyphs: Glyphs,
    width: int,
) -> Line:
    """Return the title and the value of each series at step `x`, or its newest."""
    spans = [Span(heading, "title"), Span(" ")] if heading else []
    for index, one in enumerate(series):
        tone = f"series-{index % 6 + 1}"
        value = one.latest if x is None else one.at(x)
        if len(series) > 1:
            spans.append(Span(f"{glyphs.heads[index % 6]} {one.name} ", tone))
        bad = value is not None and not math.isfinite(value)
        spans.append(Span(f"{number(value)} ", "bad" if bad else tone))
    return within([*spans, note], width, glyphs.ellipsis)


def value_labels(
    axis: ValueAxis, height: int, margin: int, glyphs: Glyphs
) -> list[str]:
    """Return the text left of each row: top, middle and bottom have a value."""
    labels = [glyphs.axis.rjust(margin)] * height
    middle = height // 2
    places = {0: 1.0, height - 1: 0.0}
    if height >= 5:
        places[middle] = 1 - (middle + 0.5) / height
    for row, fraction in places.items():
        text = axis.label(fraction, margin - 1)
        labels[row] = text.rjust(margin - 1) + glyphs.tick
    return labels


def step_labels(steps: StepAxis, cells: int, columns_per_cell: int) -> str:
    """Return the line under the axis, a round step under its column."""
    text = ""
    apart = max(7, min(12, cells // 4))
    for column, label in steps.ticks(apart * columns_per_cell):
        start = max(0, column // columns_per_cell - len(label) // 2)
        if start >= len(text) + bool(text) and start + len(label) <= cells:
            text = text.ljust(start) + label
    return text
