import pytest

from opsdash.widgets.barrier_board import BarrierBoard, OpenBarrier
from tests.screen_text import assert_screen, screen_text
from tests.widget_app import WidgetApp

S = 1_000_000_000
MS = 1_000_000
BARRIERS = (
    OpenBarrier("checkpoint_save", (0, 1, 2, 4, 5, 6), (3, 7), 42 * S, 60 * S),
    OpenBarrier("evaluate", (0,), range(1, 4096), 700 * S, 600 * S),
    OpenBarrier("step", range(8), (), 2 * S),
)
LATENESS = (0, 2 * MS, 3 * MS, 26_400_000, MS, None, 0, 4 * MS)


@pytest.mark.parametrize(
    ("name", "size", "options"),
    [
        ("80x9", (80, 9), {}),
        ("24x14", (24, 14), {}),
        ("ascii-60x9", (60, 9), {"ascii_only": True}),
    ],
)
async def test_the_board_at_every_size(name, size, options):
    board = BarrierBoard()
    app = WidgetApp(board, **options)

    async with app.run_test(size=size) as pilot:
        board.show(BARRIERS, LATENESS)
        await pilot.pause()

        assert_screen(app, f"widgets/board-{name}")
        assert not options or screen_text(app).isascii()


async def test_an_empty_board_says_so():
    app = WidgetApp(BarrierBoard())

    async with app.run_test(size=(60, 4)) as pilot:
        await pilot.pause()

        assert screen_text(app).startswith("nobody waits at a barrier")


async def test_ranks_without_lateness_are_in_step():
    board = BarrierBoard()
    app = WidgetApp(board)

    async with app.run_test(size=(60, 4)) as pilot:
        board.show((), (0, 0, 0))
        await pilot.pause()

        assert "last barrier: in step" in screen_text(app)
        assert "▁▁▁" in screen_text(app)


async def test_many_ranks_take_several_lines():
    board = BarrierBoard()
    app = WidgetApp(board)

    async with app.run_test(size=(60, 6)) as pilot:
        board.show((), range(150))
        await pilot.pause()

        assert "rank 149 last, 149 ns after the first" in screen_text(app)
        assert [len(line) for line in screen_text(app).split("\n")[2:5]] == [60, 60, 30]


@pytest.mark.parametrize(
    ("waited_s", "limit_s", "tone"),
    [(1, None, ""), (29, 60, ""), (30, 60, "warn"), (60, 60, "bad")],
)
def test_a_wait_gets_worse_towards_its_limit(waited_s, limit_s, tone):
    limit_ns = None if limit_s is None else limit_s * S

    assert OpenBarrier("x", (0,), (1,), waited_s * S, limit_ns).tone == tone


async def test_a_name_from_disk_is_data():
    board = BarrierBoard()
    app = WidgetApp(board)

    async with app.run_test(size=(60, 4)) as pilot:
        board.show([OpenBarrier("\x1b[2J[b]x", (0,), (1,), S)], ())
        await pilot.pause()

        assert r"\x1b[2J[b]x" in screen_text(app)
