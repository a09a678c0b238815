"""A table that sorts and filters its records by itself."""

from typing import NamedTuple

import pytest
from textual.widgets import Input

from opsdash.widgets import record_table as module
from opsdash.widgets.record_table import Field, RecordTable
from opsdash.widgets.rows import Cell, Column
from tests.screen_text import screen_text
from tests.widget_app import WidgetApp


class Item(NamedTuple):
    name: str
    size: int


FIELDS = (
    Field(Column("name", 12), lambda item: Cell(item.name), lambda item: item.name),
    Field(
        Column("size", 6, align_right=True),
        lambda item: Cell(str(item.size)),
        lambda item: item.size,
    ),
    Field(Column("", 4, flex=1), lambda item: Cell("-"), None),
)
ITEMS = [Item("bravo", 2), Item("alpha", 10), Item("charlie", 1)]


@pytest.fixture
async def shown():
    table = RecordTable(FIELDS, key=lambda item: item.name)
    async with WidgetApp(table).run_test(size=(40, 12)) as pilot:
        table.show(ITEMS)
        table.table.focus()
        await pilot.pause()
        yield table, pilot


def names(pilot):
    words = [line.split() for line in screen_text(pilot.app).split("\n")]
    return [line[0] for line in words if line and line[0] in {i.name for i in ITEMS}]


async def test_records_stay_as_handed_over_until_an_order_is_asked_for(shown):
    _, pilot = shown
    before = names(pilot)

    await pilot.press("o")
    by_name = names(pilot)
    await pilot.press("o")
    by_size = names(pilot)
    await pilot.press("O")
    descending = names(pilot)

    assert before == ["bravo", "alpha", "charlie"]
    assert by_name == ["alpha", "bravo", "charlie"]
    assert by_size == ["charlie", "bravo", "alpha"]
    assert descending == ["alpha", "bravo", "charlie"]


async def test_a_column_without_order_is_passed_over(shown):
    table, pilot = shown

    await pilot.press("o", "o", "o")

    assert table.table.sort[0] == "name"


async def test_the_order_stays_when_records_change(shown):
    table, pilot = shown
    await pilot.press("o")

    table.show([*ITEMS, Item("aaa", 3)])
    await pilot.pause()

    assert names(pilot)[0] == "alpha"
    assert table.table.model.key(0) == "aaa"


async def test_a_filter_that_nothing_matches_is_named_with_the_key_that_clears_it(
    shown,
):
    table, pilot = shown

    table.filter_rows()
    await pilot.press(*"zulu", "enter")
    filtered = " ".join(screen_text(pilot.app).split())
    await pilot.press("escape")
    await pilot.pause()
    cleared = names(pilot)
    table.show([])
    await pilot.pause()

    assert "nothing matches `zulu`: escape clears the filter" in filtered
    assert "nothing here yet" not in filtered
    assert len(cleared) == len(ITEMS)
    assert not table.query_one(Input).parent.display
    assert "nothing here yet" in screen_text(pilot.app)


async def test_a_list_without_a_filter_leaves_escape_to_what_is_around(shown):
    table, _ = shown

    assert not await table.app.run_action("clear_filter", table)


async def test_a_filter_appears_counts_and_goes(shown):
    table, pilot = shown
    assert not table.query_one(Input).parent.display

    table.filter_rows()
    await pilot.press(*"!alpha")
    filtered = names(pilot)
    text = screen_text(pilot.app)
    await pilot.press("enter")
    await pilot.pause()
    focused = pilot.app.focused
    table.filter_rows()
    await pilot.press("escape")
    await pilot.pause()

    assert filtered == ["bravo", "charlie"]
    assert "2 of 3" in text
    assert focused is table.table
    assert not table.query_one(Input).parent.display
    assert len(names(pilot)) == 3


async def test_an_expression_that_takes_too_long_is_taken_literally(shown, monkeypatch):
    monkeypatch.setattr(module, "_PATIENCE_S", 0.05)
    table, pilot = shown
    table.show([Item("a" * 60 + "b", 1)])

    table.filter_rows()
    await pilot.press(*"(a+)+$")
    await pilot.pause()

    assert "literally 0 of 1" in screen_text(pilot.app)


async def test_only_rows_in_sight_are_made_when_thousands_are_shown(shown):
    table, pilot = shown
    made = []

    def cell(item):
        made.append(item)
        return Cell(item.name)

    table._fields = (Field(Column("name", 12), cell, None),)

    table.show(Item(f"item-{number}", number) for number in range(5_000))
    await pilot.pause()

    assert 0 < len(set(made)) < 50


async def test_of_many_filtered_rows_those_that_change_have_their_turn(
    shown, monkeypatch
):
    monkeypatch.setattr(module, "_TURN_ROWS", 10)
    table, pilot = shown
    items = [Item(f"item-{number}", 1) for number in range(25)]
    table.show(items)
    table.filter_rows()
    await pilot.press(*"!7")
    await pilot.pause()
    before = len(table.table.model)
    table.show([item._replace(size=7) for item in items])
    at_once = len(table.table.model)
    for _ in range(2):
        table.show([item._replace(size=7) for item in items])
    all_had_it = len(table.table.model)
    table.show([Item("new-1", 1), Item("new-7", 1)])

    assert before == 23
    assert 0 < at_once < before
    assert all_had_it == 0
    assert [table.table.model.key(0), len(table.table.model)] == ["new-1", 1]
