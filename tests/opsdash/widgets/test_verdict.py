import pytest

from opsdash.glyphs import ASCII, UNICODE
from opsdash.widgets.verdict import STATE_TONES, VerdictLine, state_mark
from tests.screen_text import assert_screen, screen_text
from tests.widget_app import WidgetApp

VERDICTS = (
    ("healthy", "12.3 steps/s, step-00001200 verified 3 s ago, 40 steps at risk"),
    ("degraded", "rank 3 costs 23 % of every step; the newest checkpoint is damaged"),
    ("dead", "ranks 0-7 are gone"),
    ("blind", "telemetry/0001/rank-00003.jsonl has a newer schema"),
    ("finished", "10,000 steps"),
)


def verdict(state, text):
    line = VerdictLine()
    line.state, line.text = state, text
    return line


@pytest.mark.parametrize(
    ("name", "size", "options"),
    [
        ("80x6", (80, 6), {}),
        ("30x14", (30, 14), {}),
        ("ascii-15x18", (15, 18), {"ascii_only": True}),
    ],
)
async def test_every_state_at_every_size(name, size, options):
    app = WidgetApp(*[verdict(*each) for each in VERDICTS], **options)

    async with app.run_test(size=size) as pilot:
        await pilot.pause()

        assert_screen(app, f"widgets/verdict-{name}")
        assert not options or screen_text(app).isascii()


async def test_a_verdict_grows_with_its_reasons_and_shrinks_again():
    line = VerdictLine()
    app = WidgetApp(line, verdict("dead", "below"))

    async with app.run_test(size=(40, 8)) as pilot:
        await pilot.pause()
        assert "nothing was read yet" in screen_text(app)

        line.show("degraded", "one reason; " * 8)
        await pilot.pause()
        assert screen_text(app).split("\n")[3].startswith("           reason")
        assert screen_text(app).split("\n")[4].startswith("✖ dead")

        line.show("healthy", "")
        await pilot.pause()
        assert screen_text(app).split("\n")[1].startswith("✖ dead")
        assert app.differing_lines() == []


def test_every_state_has_a_mark_of_its_own_and_a_tone():
    for glyphs in (ASCII, UNICODE):
        marks = {state_mark(state, glyphs) for state in STATE_TONES}

        assert len(marks) == len(STATE_TONES) == len(set(STATE_TONES.values()))


async def test_reasons_without_end_leave_room_for_the_rest():
    app = WidgetApp(verdict("degraded", "one reason; " * 99), verdict("dead", "below"))

    async with app.run_test(size=(40, 10)) as pilot:
        await pilot.pause()

        lines = screen_text(app).split("\n")
        assert lines[5].endswith("…")
        assert lines[6] == "✖ dead below"


async def test_an_unknown_state_is_marked_as_not_seen():
    app = WidgetApp(verdict("confused", "a newer word"))

    async with app.run_test(size=(40, 2)) as pilot:
        await pilot.pause()

        assert screen_text(app).startswith("◌ confused a newer word")
