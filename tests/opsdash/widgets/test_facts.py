import pytest

from opsdash.widgets.facts import Fact, Facts, fact_lines
from tests.screen_text import assert_screen, screen_text
from tests.widget_app import WidgetApp

FACTS = (
    Fact("checkpoint"),
    Fact("name", "step-00001200", "strong"),
    Fact("state", "verified 3 h ago", "ok"),
    Fact("resumable", "no, because state.pt has 1048064 bytes", "bad"),
    Fact("digest", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
)


@pytest.mark.parametrize(
    ("name", "size", "options"),
    [
        ("80x6", (80, 6), {}),
        ("24x12", (24, 12), {}),
        ("ascii-60x8", (60, 8), {"ascii_only": True}),
    ],
)
async def test_facts_at_every_size(name, size, options):
    app = WidgetApp(Facts(FACTS), **options)

    async with app.run_test(size=size) as pilot:
        await pilot.pause()

        assert_screen(app, f"widgets/facts-{name}")
        assert not options or screen_text(app).isascii()


def test_no_value_is_ever_cut():
    digest = FACTS[-1].value

    for width in range(8, 90):
        lines = fact_lines([FACTS[-1]], width)
        assert "".join(line[-1].text for line in lines) == digest


def test_a_label_that_is_too_long_gives_way_to_its_value():
    ((label, value),) = fact_lines([Fact("an endless label", "3")], 20)

    assert label.text == "an end  "
    assert value.text == "3"


async def test_other_facts_replace_the_old_ones():
    facts = Facts(FACTS)
    app = WidgetApp(facts)

    async with app.run_test(size=(60, 8)) as pilot:
        facts.show([Fact("node", "\x1b[31mclient-1")])
        await pilot.pause()

        assert screen_text(app).split("\n")[:2] == [r"node  \x1b[31mclient-1", ""]
        assert app.differing_lines() == []
