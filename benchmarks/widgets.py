"""What a change costs in a chart, a table and a heat map, beside Textual's own.

CPU time of one process, the least of several rounds, without a terminal; bytes
are what a true-colour terminal would get. One run measures all sides.

    python benchmarks/widgets.py [--points 1000000] [--rows 20000]
"""

import argparse
import asyncio
import os
import random
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ |= {"COLORTERM": "truecolor", "TERM": "xterm-256color"}
os.environ.pop("NO_COLOR", None)

from textual._compositor import CompositorUpdate
from textual.app import App
from textual.containers import Grid
from textual.screen import Screen
from textual.widget import Widget
from textual.widgets import DataTable, Sparkline

from benchmarks.table import Row, print_table, times
from opsdash.theme import THEMES
from opsdash.widgets.chart import Chart
from opsdash.widgets.heat_map import HeatMap
from opsdash.widgets.heat_view import Peak
from opsdash.widgets.rows import Cell, Column
from opsdash.widgets.series import Series
from opsdash.widgets.table import VirtualTable
from opsdash.widgets.thin_screen import ThinScreen

SIZE = (120, 36)
TITLES = ("round", "client", "chunk", "bytes", "codec", "sha256", "state", "age")
TABLE_WORK = ("fill and show", "append a row to", "move the cursor in")
COLUMNS = [Column(title, 9, flex=1) for title in TITLES]


class Bench(App):
    """Shows widgets and counts what it would send."""

    CSS = "Screen { overflow: hidden; } Grid { grid-size: 3 2; }"

    def __init__(self, widgets: Iterable[Widget], screen: type[Screen] = ThinScreen):
        super().__init__()
        self.widgets, self.screen_class, self.num_bytes = list(widgets), screen, 0
        self.register_theme(THEMES["dark"])
        self.theme = "dark"

    def get_default_screen(self):
        """Use the screen under test."""
        return self.screen_class(id="_default")

    def compose(self):
        """Give one widget the screen, several a grid."""
        if len(self.widgets) == 1:
            yield from self.widgets
            return
        with Grid():
            yield from self.widgets

    def _display(self, screen, renderable):
        super()._display(screen, renderable)
        if isinstance(renderable, CompositorUpdate):
            self.num_bytes += len(renderable.render_segments(self.console).encode())

    def paint(self) -> None:
        """Do what the next frame would do."""
        compositor = self.screen._compositor
        compositor.update_widgets(set(self.widgets))
        update = compositor.render_partial_update()
        if update is not None:
            update.render_segments(self.console)


class Chunks:
    """Rows that are made when they are asked for."""

    def __init__(self, length: int):
        self.length = length

    def __len__(self):
        return self.length

    def key(self, index):
        """Return the row's key."""
        return index

    def find(self, key):
        """Return the key's row."""
        return key

    def row(self, index):
        """Make a row."""
        return [Cell(text) for text in texts(index)]


class Lateness:
    """64 ranks over any number of steps, at no cost of its own."""

    ranks = range(64)

    def __init__(self):
        self.last = 5000

    @property
    def span(self):
        """Return all steps."""
        return (0, self.last)

    def label(self, rank):
        """Return a row's name."""
        return f"rank {rank}"

    def peak(self, rank, start, stop):  # noqa: ARG002 - a HeatModel
        """Return some lateness."""
        return Peak((start * 7919 + rank * 104_729) % 600, start)


def texts(index: int) -> tuple[str, ...]:
    return (
        str(index // 1000),
        f"c{index // 10 % 100:03d}",
        str(index % 10),
        str(65_536 + index * 7919 % 9999),
        ("zstd", "fp8", "raw")[index % 3],
        f"{index * 2_654_435_761 & 0xFFFFFFFFFFFF:012x}",
        ("ok", "ok", "ok", "missing")[index % 4],
        f"{index % 60}s",
    )


def loss(step: int) -> float:
    return 0.4 + 2.0 / (1 + step / 20_000) + random.gauss(0, 0.05)


def least_ms(app: Bench, change: Callable[[int], object], rounds: int = 15) -> float:
    """The least CPU time of a change and its frame."""
    spent = []
    for index in range(rounds):
        start = time.process_time()
        change(index)
        app.paint()
        spent.append(time.process_time() - start)
    return min(spent) * 1000


async def chart_ms(points: int) -> float:
    series = Series("loss")
    series.extend((step, loss(step)) for step in range(points))
    chart = Chart(series, title="loss")
    app = Bench([chart])

    def append(index: int) -> None:
        series.append(points + index, loss(points))
        chart.changed()

    async with app.run_test(size=SIZE) as pilot:
        await pilot.pause()
        return least_ms(app, append)


async def sparkline_ms(points: int) -> float:
    data = [loss(step) for step in range(points)]
    sparkline = Sparkline(data)
    app = Bench([sparkline], Screen)

    def append(_: int) -> None:
        data.append(loss(points))
        sparkline.data = data
        sparkline.refresh()

    async with app.run_test(size=SIZE) as pilot:
        await pilot.pause()
        return least_ms(app, append, rounds=3)


async def table_ms(rows: int) -> tuple[float, float, float]:
    """Fill and show, append, move the cursor."""
    model = Chunks(rows)
    table = VirtualTable(COLUMNS, follows=True)
    app = Bench([table])
    async with app.run_test(size=SIZE) as pilot:
        await pilot.pause()
        fill = least_ms(app, lambda _: table.show(model), rounds=1)

        def append(_: int) -> None:
            model.length += 1
            table.changed()

        return (
            fill,
            least_ms(app, append),
            least_ms(app, lambda _: table.action_move(-1)),
        )


async def data_table_ms(rows: int) -> tuple[float, float, float]:
    """The same in Textual's table."""
    table: DataTable[str] = DataTable(cursor_type="row")
    app = Bench([table], Screen)
    async with app.run_test(size=SIZE) as pilot:
        table.add_columns(*TITLES)
        await pilot.pause()
        start = time.process_time()
        table.add_rows(texts(index) for index in range(rows))
        await pilot.pause()
        fill = (time.process_time() - start) * 1000

        spent = []
        for index in range(3):
            start = time.process_time()
            table.add_row(*texts(rows + index))
            await pilot.pause()  # its work is done in idle time
            spent.append(time.process_time() - start)
        move = least_ms(app, lambda _: table.action_cursor_down())
        return fill, min(spent) * 1000, move


async def heat_ms() -> tuple[float, float]:
    """A new step, and everything anew."""
    model = Lateness()
    heat = HeatMap((100, 200, 300, 400, 500), title="lateness")
    heat.model = model
    app = Bench([heat])

    def step(_: int) -> None:
        model.last += 1
        heat.changed(since=model.last)

    async with app.run_test(size=SIZE) as pilot:
        await pilot.pause()
        return least_ms(app, step), least_ms(app, lambda _: heat.changed())


async def bytes_per_step(screen: type[Screen]) -> float:
    """Six charts that get a point each, a step a frame."""
    random.seed(1)
    start, num_steps = 3000, 60
    series = [Series(f"s{index}") for index in range(6)]
    for each in series:
        each.extend((step, loss(step * 100)) for step in range(start))
    charts = [Chart(each, title=each.name) for each in series]
    app = Bench(charts, screen)
    async with app.run_test(size=SIZE) as pilot:
        await pilot.pause()
        app.num_bytes = 0
        for step in range(start, start + num_steps):
            for each, chart in zip(series, charts, strict=True):
                each.append(step, loss(step * 100))
                chart.changed()
            await pilot.pause()
        return app.num_bytes / num_steps


def measure(points: int, rows: int) -> Iterator[Row]:
    run = asyncio.run
    few, many = run(chart_ms(points // 100)), run(chart_ms(points))
    sparkline = run(sparkline_ms(points))
    yield beside(f"append and repaint, {points:,} points", many, sparkline, "Sparkline")
    yield alone(f"append and repaint, {points // 100:,} points", few)

    ours, theirs = run(table_ms(rows)), run(data_table_ms(rows))
    for what, spent, peer in zip(TABLE_WORK, ours, theirs, strict=True):
        yield beside(f"{what} {rows:,} rows", spent, peer, "DataTable")
    for what, spent in zip(TABLE_WORK, run(table_ms(1_000_000)), strict=True):
        yield alone(f"{what} 1,000,000 rows", spent)

    step, anew = run(heat_ms())
    yield alone("one more step in a heat map of 64 ranks", step)
    yield alone("the whole heat map anew", anew)

    thin, plain = run(bytes_per_step(ThinScreen)), run(bytes_per_step(Screen))
    yield Row(
        "bytes per step, six charts, 120 x 36",
        f"{thin:,.0f} B",
        f"Textual's screen: {plain:,.0f} B",
        **times(thin, plain, least=None),
    )


def beside(what: str, ours_ms: float, peer_ms: float, peer: str) -> Row:
    ratio = times(ours_ms, peer_ms, least=None)
    return Row(what, f"{ours_ms:.2f} ms", f"{peer}: {peer_ms:.1f} ms", **ratio)


def alone(what: str, ours_ms: float) -> Row:
    return Row(what, f"{ours_ms:.2f} ms", "")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--points", type=int, default=1_000_000)
    parser.add_argument("--rows", type=int, default=20_000)
    options = parser.parse_args()
    return print_table(measure(options.points, options.rows))


if __name__ == "__main__":
    sys.exit(main())
