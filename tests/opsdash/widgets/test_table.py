import pytest
from textual.events import MouseScrollDown, MouseScrollUp

from opsdash.widgets.rows import Cell, Column, FixedRows
from opsdash.widgets.table import VirtualTable
from tests.screen_text import assert_screen, screen_text
from tests.widget_app import WidgetApp

COLUMNS = (
    Column("round", 6, align_right=True, key="round_num"),
    Column("node", 10),
    Column("bytes", 8, align_right=True),
    Column("state", 8, sortable=False),
    Column("note", 8, flex=1),
)


class Chunks:
    """Rows that exist nowhere; notes which were asked for."""

    def __init__(self, length):
        self.length = length
        self.asked = set()

    def __len__(self):
        return self.length

    def key(self, index):
        return f"chunk-{index}"

    def row(self, index):
        self.asked.add(index)
        state = Cell("damaged", "bad") if index % 5 == 3 else Cell("sound", "ok")
        return (
            Cell(str(index // 1000)),
            Cell(f"client-{index % 100}"),
            Cell(f"{65536 + index:,}"),
            state,
            Cell("evil\x1b[31m\u202e 模型" if index % 7 == 0 else "", "dim"),
        )


class Log:
    """Rows that are only appended."""

    def __init__(self, *keys):
        self.keys = list(keys)

    def __len__(self):
        return len(self.keys)

    def key(self, index):
        return self.keys[index]

    def row(self, index):
        return (Cell(str(self.keys[index])),)


def under_cursor(app):
    """The keys that were told to be under the cursor, oldest first."""
    return [message.key for message in app.told_of(VirtualTable.Highlighted)]


@pytest.mark.parametrize(
    ("name", "size", "options"),
    [
        ("80x12", (80, 12), {}),
        ("30x6", (30, 6), {}),
        ("ascii-60x8", (60, 8), {"ascii_only": True}),
    ],
)
async def test_a_table_at_every_size(name, size, options):
    table = VirtualTable(COLUMNS, Chunks(1_000_000))
    app = WidgetApp(table, **options)

    async with app.run_test(size=size) as pilot:
        table.show(table.model, sort=("node", True))
        table.focus()
        await pilot.press("j", "m", "j")

        assert_screen(app, f"widgets/table-{name}")
        assert not options or screen_text(app).isascii()


async def test_an_empty_table_says_why():
    app = WidgetApp(VirtualTable(COLUMNS, empty="no chunks: this is a DDP run"))

    async with app.run_test(size=(60, 5)) as pilot:
        await pilot.pause()

        assert "no chunks: this is a DDP run" in screen_text(app)


async def test_only_rows_in_sight_are_asked_for():
    model = Chunks(1_000_000)
    table = VirtualTable(COLUMNS, model)
    app = WidgetApp(table)

    async with app.run_test(size=(80, 20)) as pilot:
        table.focus()
        await pilot.press("G", "pageup", "g", "pagedown")

        assert len(model.asked) < 100


@pytest.mark.parametrize(
    ("keys", "row"),
    [
        (["j"], 1),
        (["down", "down", "up"], 1),
        (["j", "j", "k", "k", "k"], 0),
        (["pagedown"], 9),
        (["pagedown", "pagedown", "pageup"], 9),
        (["G"], 99),
        (["end"], 99),
        (["G", "g"], 0),
        (["end", "home"], 0),
        (["end", "j"], 99),
    ],
)
async def test_keys_move_the_cursor(keys, row):
    table = VirtualTable(COLUMNS, Chunks(100))
    app = WidgetApp(table)

    async with app.run_test(size=(80, 11)) as pilot:
        table.focus()
        await pilot.press(*keys)
        await pilot.pause()

        assert table.cursor == row
        assert table.cursor_key == f"chunk-{row}"
        assert under_cursor(app)[-1] == f"chunk-{row}"


async def test_the_first_row_is_told_once():
    app = WidgetApp(VirtualTable(COLUMNS, Chunks(3)))

    async with app.run_test(size=(80, 11)) as pilot:
        await pilot.pause()

        assert under_cursor(app) == ["chunk-0"]


async def test_enter_opens_the_row():
    table = VirtualTable(COLUMNS, Chunks(3))
    app = WidgetApp(table)

    async with app.run_test(size=(80, 11)) as pilot:
        table.focus()
        await pilot.press("j", "enter")
        await pilot.pause()

        assert [m.key for m in app.told_of(VirtualTable.Selected)] == ["chunk-1"]


async def test_an_empty_table_has_nothing_to_open_or_mark():
    table = VirtualTable(COLUMNS)
    app = WidgetApp(table)

    async with app.run_test(size=(80, 11)) as pilot:
        table.focus()
        await pilot.press("enter", "m", "j", "G", "pageup", "o", "O")
        await pilot.pause()

        assert table.cursor_key is None
        assert app.told_of(VirtualTable.Selected) == []
        assert app.told_of(VirtualTable.MarksChanged) == []


async def test_m_marks_and_unmarks_and_goes_on():
    table = VirtualTable(COLUMNS, Chunks(5))
    app = WidgetApp(table)

    async with app.run_test(size=(80, 11)) as pilot:
        table.focus()
        await pilot.press("m", "m", "k", "m")
        await pilot.pause()

        assert table.marked == {"chunk-0"}
        assert screen_text(app).split("\n")[1].startswith("●")

        await pilot.press("M")
        await pilot.pause()

        told = [m.marked for m in app.told_of(VirtualTable.MarksChanged)]
        assert told[0] == {"chunk-0"}
        assert told[-1] == table.marked == frozenset()


async def test_an_order_is_asked_for_and_shown_when_it_is_there():
    table = VirtualTable(COLUMNS, Chunks(5))
    app = WidgetApp(table)

    async with app.run_test(size=(80, 11)) as pilot:
        table.focus()
        await pilot.press("o")
        await pilot.pause()
        assert "▲" not in screen_text(app)
        table.show(table.model, sort=("round_num", False))
        await pilot.pause()
        assert "round▲" in screen_text(app)
        await pilot.press("O", "o")
        await pilot.pause()

        told = app.told_of(VirtualTable.SortRequested)
        assert [(m.column, m.descending) for m in told] == [
            ("round_num", False),
            ("round_num", True),
            ("node", False),
        ]


async def test_a_click_on_a_header_orders_and_on_a_row_moves_the_cursor():
    table = VirtualTable(COLUMNS, Chunks(5))
    app = WidgetApp(table)

    async with app.run_test(size=(80, 11)) as pilot:
        await pilot.click(table, offset=(10, 0))
        await pilot.click(table, offset=(30, 0))
        await pilot.click(table, offset=(10, 3))
        await pilot.click(table, offset=(10, 9))
        await pilot.pause()

        told = app.told_of(VirtualTable.SortRequested)
        assert [(m.column, m.descending) for m in told] == [("node", False)]
        assert table.cursor == 2


async def test_two_clicks_open_a_row():
    table = VirtualTable(COLUMNS, Chunks(5))
    app = WidgetApp(table)

    async with app.run_test(size=(80, 11)) as pilot:
        await pilot.click(table, offset=(10, 3), times=2)
        await pilot.pause()

        assert [m.key for m in app.told_of(VirtualTable.Selected)] == ["chunk-2"]


async def test_a_click_on_the_scroll_bar_goes_there():
    table = VirtualTable(COLUMNS, Chunks(1000))
    app = WidgetApp(table)

    async with app.run_test(size=(80, 11)) as pilot:
        await pilot.click(table, offset=(79, 6))
        await pilot.pause()

        assert table.cursor == 500


async def test_the_wheel_scrolls_and_takes_the_cursor_along_at_the_edge():
    table = VirtualTable(COLUMNS, Chunks(1000))
    app = WidgetApp(table)

    async with app.run_test(size=(80, 11)) as pilot:
        await pilot._post_mouse_events([MouseScrollDown], table, offset=(5, 5))
        await pilot.pause()

        assert table.cursor == 3

        await pilot._post_mouse_events([MouseScrollUp], table, offset=(5, 5))
        await pilot.pause()

        assert table.cursor == 3
        assert "client-0" in screen_text(app)


async def test_columns_scroll_sideways_and_the_first_one_stays():
    table = VirtualTable(COLUMNS, Chunks(5))
    app = WidgetApp(table)

    async with app.run_test(size=(30, 6)) as pilot:
        table.focus()
        await pilot.press("l", "right")
        await pilot.pause()
        header = screen_text(app).split("\n")[0]

        assert header.startswith("◀ round state")
        assert not header.endswith("▶")

        await pilot.press("l")
        await pilot.press("h", "left", "h", "h")
        await pilot.pause()

        assert screen_text(app).split("\n")[0].startswith("  round node")
        assert screen_text(app).split("\n")[0].endswith("▶")


async def test_the_cursor_stays_on_its_row_when_rows_come_before_it():
    log = Log("b", "c", "d")
    table = VirtualTable(COLUMNS[:1], log)
    app = WidgetApp(table)

    async with app.run_test(size=(30, 6)) as pilot:
        table.focus()
        await pilot.press("j")
        log.keys[:0] = ["a0", "a1", "a2", "a3", "a4"]
        table.changed()
        await pilot.pause()

        assert (table.cursor_key, table.cursor) == ("c", 6)
        assert under_cursor(app) == ["b", "c"]


async def test_the_cursor_stays_on_its_row_in_another_order():
    rows = [(key, (Cell(key),)) for key in "abcdefgh"]
    table = VirtualTable(COLUMNS[:1], FixedRows(rows))
    app = WidgetApp(table)

    async with app.run_test(size=(30, 6)) as pilot:
        table.focus()
        await pilot.press("j", "j")
        table.show(FixedRows(reversed(rows)), sort=("round_num", True))
        await pilot.pause()

        assert (table.cursor_key, table.cursor) == ("c", 5)


async def test_when_its_row_goes_the_cursor_takes_the_one_in_its_place():
    table = VirtualTable(COLUMNS[:1], Log("a", "b", "c"))
    app = WidgetApp(table)

    async with app.run_test(size=(30, 6)) as pilot:
        table.focus()
        await pilot.press("j")
        table.show(Log("a", "c"))
        await pilot.pause()
        assert under_cursor(app)[-1] == "c"

        table.show(Log())
        await pilot.pause()

        assert under_cursor(app)[-1] is None


async def test_a_row_is_gone_to_by_its_key():
    table = VirtualTable(COLUMNS, Chunks(1000))
    app = WidgetApp(table)

    async with app.run_test(size=(80, 11)) as pilot:
        await pilot.pause()

        assert table.move_to("chunk-700")
        assert table.cursor == 700
        assert not table.move_to("chunk-5000")
        assert table.cursor == 700


async def test_following_stops_when_the_operator_goes_up_and_starts_at_the_end():
    log = Log(*range(20))
    table = VirtualTable(COLUMNS[:1], log, follows=True)
    app = WidgetApp(table)

    async with app.run_test(size=(30, 8)) as pilot:
        table.focus()
        await pilot.pause()
        assert (table.following, table.cursor) == (True, 19)

        log.keys += [20, 21]
        table.changed()
        assert table.cursor == 21

        await pilot.press("k")
        log.keys += [22]
        table.changed()
        assert (table.following, table.cursor_key) == (False, 20)

        await pilot.press("G")
        log.keys += [23]
        table.changed()
        await pilot.pause()
        assert (table.following, table.cursor_key) == (True, 23)
        assert app.differing_lines() == []


async def test_a_table_that_does_not_follow_stays_where_it_is_at_its_end():
    log = Log(*range(20))
    table = VirtualTable(COLUMNS[:1], log)
    app = WidgetApp(table)

    async with app.run_test(size=(30, 8)) as pilot:
        table.focus()
        await pilot.press("G")
        log.keys += [20]
        table.changed()

        assert table.cursor_key == 19


async def test_the_cursor_is_seen_without_focus_too():
    table, other = VirtualTable(COLUMNS, Chunks(3)), VirtualTable(COLUMNS, Chunks(3))
    app = WidgetApp(table, other)

    async with app.run_test(size=(80, 12)) as pilot:
        other.focus()
        await pilot.pause()
        strips = app.screen._compositor.render_strips()
        first, focused = (next(iter(strips[y])).style.bgcolor for y in (1, 7))
        plain = next(iter(strips[2])).style.bgcolor

        assert len({first, focused, plain}) == 3


async def test_another_cell_of_a_row_is_all_that_is_sent():
    rows = [[Cell("0"), Cell("client")] for _ in range(30)]
    table = VirtualTable(COLUMNS[:2], FixedRows(enumerate(rows)))
    app = WidgetApp(table)

    async with app.run_test(size=(80, 31)) as pilot:
        await pilot.pause()
        app.num_bytes = 0
        rows[12][0] = Cell("1")
        table.changed()
        await pilot.pause()

        assert 0 < app.num_bytes < 200
        assert app.differing_lines() == []
