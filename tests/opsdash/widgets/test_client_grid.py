"""Clients by rounds."""

import pytest

from opsdash.widgets.client_grid import ClientGrid, GridCell, GridLegend
from tests.screen_text import screen_text
from tests.widget_app import WidgetApp

LEGEND = (GridLegend("o", "ok", "joined"), GridLegend("-", "bad", "missing"))


def cells(clients, rounds):
    return {
        (client, number): GridCell(
            "o" if number % 3 else "-", "ok", f"{client}@{number}"
        )
        for client in clients
        for number in rounds
    }


@pytest.fixture
async def shown():
    grid = ClientGrid(LEGEND)
    clients, rounds = ["c-1", "c-2", "c-3"], list(range(1, 201))
    async with WidgetApp(grid).run_test(size=(40, 6)) as pilot:
        grid.show(clients, rounds, cells(clients, rounds))
        grid.focus()
        await pilot.pause()
        yield grid, pilot


def lines(pilot):
    text = screen_text(pilot.app).split("\n")
    return [line.rstrip() for line in text if line.strip()]


async def test_the_newest_rounds_are_in_sight(shown):
    _, pilot = shown

    assert lines(pilot)[0].startswith("clients  o joined  - missing")
    assert lines(pilot)[1].startswith("c-1 ")
    assert lines(pilot)[-1].endswith("-200")


async def test_the_cursor_says_what_a_cell_is_and_opens_it(shown):
    grid, pilot = shown

    await pilot.press("left", "left", "down")

    assert "c-2 · round 199 · c-2@199" in lines(pilot)[-1]
    await pilot.press("enter")
    (message,) = pilot.app.told_of(ClientGrid.CellSelected)
    assert (message.client, message.round_num) == ("c-2", 199)
    assert message.control is grid


async def test_home_end_and_escape(shown):
    grid, pilot = shown
    await pilot.press("left", "home")
    first = lines(pilot)[-1]
    await pilot.press("G")
    last = lines(pilot)[-1]
    await pilot.press("escape")

    assert "round 1 " in first
    assert "round 200 " in last
    assert grid.cursor is None


async def test_more_clients_than_lines_scroll_with_the_cursor(shown):
    grid, pilot = shown
    clients = [f"c-{number}" for number in range(30)]
    grid.show(clients, [1, 2], cells(clients, [1, 2]))

    await pilot.press("left", *["down"] * 20)

    assert any(line.startswith("c-20") for line in lines(pilot))
    assert "c-20 ·" in lines(pilot)[-1]


async def test_a_click_puts_the_cursor_and_two_open(shown):
    grid, pilot = shown

    await pilot.click(grid, offset=(6, 2), times=2)
    await pilot.pause()

    (message,) = pilot.app.told_of(ClientGrid.CellSelected)
    assert message.client == "c-2"


async def test_a_round_that_is_gone_takes_the_cursor_with_it(shown):
    grid, pilot = shown
    await pilot.press("left", "home")

    grid.show(["c-1"], [150, 151], {})
    await pilot.press("enter")
    await pilot.pause()

    assert pilot.app.told_of(ClientGrid.CellSelected) == []
    assert "rounds 150-151" in "\n".join(lines(pilot))


async def test_nothing_is_said_where_there_is_nothing():
    async with WidgetApp(ClientGrid(LEGEND)).run_test(size=(40, 6)) as pilot:
        await pilot.press("left", "enter")
        await pilot.pause()

        assert "no round was opened yet" in screen_text(pilot.app)
        assert pilot.app.told_of(ClientGrid.CellSelected) == []
