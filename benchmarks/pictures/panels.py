"""Draw small line charts side by side: a middle and a band per curve, by number.

Rows share the height of their axis, so that columns can be compared. Nothing
is drawn across a gap, what lies beyond an axis is drawn at its edge, and dashes
tell curves apart where colour does not.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

SCALE = 2
"""Drawn larger by this and reduced afterwards: PIL draws lines without grey."""
PAPER, INK, GRID, SHADE = "#ffffff", "#24292f", "#d8dee4", "#f1f3f5"
PANEL_WIDTH, PANEL_HEIGHT = 300, 170
LEFT, TOP, GAP, ROW_GAP, BOTTOM = 52, 64, 34, 62, 34

Curve = Mapping[int, tuple[float, float, float]]
"""By number: lower edge of the band, middle, upper edge."""
Point = tuple[float, float]


class Style(NamedTuple):
    """How a curve is drawn."""

    colour: str
    dash: int
    """Length in pixels; 0: a solid line."""


@dataclass(frozen=True)
class Chart:
    """What one panel shows."""

    title: str
    subtitle: str
    low: float
    high: float
    tick: float
    curves: Mapping[str, Curve]


@dataclass(frozen=True)
class Sheet:
    """What all panels have in common."""

    styles: Mapping[str, Style]
    last: int
    """The axis runs from 1 to here."""
    shaded: tuple[float, float]
    shade_text: str
    axis_text: str

    def draw(self, rows: Sequence[Sequence[Chart]], path: Path) -> None:
        """Write the picture."""
        num_columns = max(map(len, rows))
        width = LEFT + num_columns * (PANEL_WIDTH + GAP)
        height = TOP + len(rows) * (PANEL_HEIGHT + ROW_GAP) + BOTTOM - ROW_GAP + 20
        image = Image.new("RGB", (width * SCALE, height * SCALE), PAPER)
        canvas = ImageDraw.Draw(image, "RGBA")
        self._draw_key(canvas)
        for row, charts in enumerate(rows):
            top = TOP + row * (PANEL_HEIGHT + ROW_GAP) + 24
            for column, chart in enumerate(charts):
                left = LEFT + column * (PANEL_WIDTH + GAP)
                self._draw_panel(canvas, _Panel(left, top, self.last, chart))
        image.resize((width, height), Image.Resampling.LANCZOS).save(
            path, optimize=True
        )

    def _draw_key(self, canvas: ImageDraw.ImageDraw) -> None:
        x = float(LEFT)
        for name, style in self.styles.items():
            _line(canvas, [(x, 20), (x + 30, 20)], style)
            _label(canvas, (x + 36, 20), name, 13, anchor="lm")
            x += 56 + 8 * len(name)

    def _draw_panel(self, canvas: ImageDraw.ImageDraw, panel: "_Panel") -> None:
        chart, (first, last) = panel.chart, self.shaded
        corners = (*panel.place(first, chart.high), *panel.place(last, chart.low))
        canvas.rectangle([value * SCALE for value in corners], SHADE)
        _label(canvas, (panel.left, panel.top - 36), chart.title, 13)
        _label(canvas, (panel.left, panel.top - 19), chart.subtitle, 11)
        middle = panel.place((first + last) / 2, chart.high)
        _label(canvas, (middle[0], middle[1] + 3), self.shade_text, 10, anchor="ma")
        for value in _ticks(chart):
            left, right = panel.place(1, value), panel.place(self.last, value)
            canvas.line(_scaled([left, right]), GRID, SCALE)
            _label(canvas, (left[0] - 5, left[1]), f"{value:g}", 10, anchor="rm")
        for number in range(1, self.last + 1, 3):
            x, y = panel.place(number, chart.low)
            _label(canvas, (x, y + 4), str(number), 10, anchor="ma")
        x, y = panel.place((1 + self.last) / 2, chart.low)
        _label(canvas, (x, y + 16), self.axis_text, 10, anchor="ma")
        for name, curve in chart.curves.items():
            _draw_curve(canvas, panel, curve, self.styles[name])


@dataclass(frozen=True)
class _Panel:
    left: float
    top: float
    last: int
    chart: Chart

    def place(self, number: float, value: float) -> Point:
        low, high = self.chart.low, self.chart.high
        share = (min(max(value, low), high) - low) / (high - low)
        x = self.left + (number - 1) / (self.last - 1) * PANEL_WIDTH
        return x, self.top + (1 - share) * PANEL_HEIGHT


def _ticks(chart: Chart) -> Iterator[float]:
    num_steps = round((chart.high - chart.low) / chart.tick)
    return (chart.low + step * chart.tick for step in range(num_steps + 1))


def _draw_curve(
    canvas: ImageDraw.ImageDraw, panel: _Panel, curve: Curve, style: Style
) -> None:
    for numbers in _runs(sorted(curve)):
        low = [panel.place(n, curve[n][0]) for n in numbers]
        high = [panel.place(n, curve[n][2]) for n in numbers]
        canvas.polygon(_scaled([*low, *reversed(high)]), style.colour + "22")
        _line(canvas, [panel.place(n, curve[n][1]) for n in numbers], style)


def _runs(numbers: Sequence[int]) -> Iterator[list[int]]:
    """Split where numbers are missing."""
    run: list[int] = []
    for number in numbers:
        if run and number != run[-1] + 1:
            yield run
            run = []
        run.append(number)
    yield run


def _line(canvas: ImageDraw.ImageDraw, points: Sequence[Point], style: Style) -> None:
    if not style.dash:
        canvas.line(_scaled(points), style.colour, 2 * SCALE, joint="curve")
        return
    travelled = 0.0
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        length = max(1.0, ((x1 - x0) ** 2 + (y1 - y0) ** 2) ** 0.5)
        steps = max(1, int(length * SCALE))
        for step in range(steps):
            a, b = step / steps, (step + 1) / steps
            if (travelled + a * length) % (1.6 * style.dash) < style.dash:
                piece = [
                    (x0 + (x1 - x0) * a, y0 + (y1 - y0) * a),
                    (x0 + (x1 - x0) * b, y0 + (y1 - y0) * b),
                ]
                canvas.line(_scaled(piece), style.colour, 2 * SCALE)
        travelled += length


def _scaled(points: Sequence[Point]) -> list[Point]:
    return [(x * SCALE, y * SCALE) for x, y in points]


def _label(
    canvas: ImageDraw.ImageDraw,
    place: Point,
    text: str,
    size: int,
    *,
    anchor: str = "la",
) -> None:
    font = ImageFont.load_default(size * SCALE)
    canvas.text((place[0] * SCALE, place[1] * SCALE), text, INK, font, anchor=anchor)
