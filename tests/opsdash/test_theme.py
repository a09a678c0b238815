import itertools

import pytest
from textual.color import Color
from textual.containers import VerticalScroll
from textual.scrollbar import ScrollBar

from opsdash.glyphs import ASCII, UNICODE
from opsdash.theme import THEMES, PlainScrollBar, appearance
from opsdash.widgets.facts import Fact, Facts
from tests.screen_text import screen_text
from tests.widget_app import WidgetApp

TRUE = {"COLORTERM": "truecolor", "TERM": "xterm-256color"}
SSH = {"TERM": "xterm-256color"}
LIGHT = {"COLORFGBG": "0;15"}

# Linear RGB as it is seen; Source: Machado, Oliveira, Fernandes 2009, severity 1.
SEEN_BY = {
    "most": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "protanopes": (
        (0.152286, 1.052583, -0.204868),
        (0.114503, 0.786281, 0.099216),
        (-0.003882, -0.048116, 1.051998),
    ),
    "deuteranopes": (
        (0.367322, 0.860646, -0.227968),
        (0.280085, 0.672501, 0.047413),
        (-0.011820, 0.042940, 0.968881),
    ),
    "tritanopes": (
        (1.255528, -0.076749, -0.178779),
        (-0.078411, 0.930809, 0.147602),
        (0.004733, 0.691367, 0.303900),
    ),
}


@pytest.mark.parametrize(
    ("environ", "theme"),
    [
        (TRUE, "dark"),
        (SSH, "ansi-dark"),
        ({}, "ansi-dark"),
        ({"TERM": "xterm-direct"}, "dark"),
        (TRUE | LIGHT, "light"),
        (SSH | LIGHT, "ansi-light"),
        (SSH | {"COLORFGBG": "15;0"}, "ansi-dark"),
        (TRUE | {"NO_COLOR": "1"}, "mono"),
    ],
)
def test_the_theme_is_what_the_terminal_announces(environ, theme):
    assert appearance(environ).theme == theme


def test_a_wish_beats_what_the_terminal_announces_and_no_color_beats_the_wish():
    assert appearance(SSH, theme="light").theme == "light"
    assert appearance(SSH, theme="no such theme").theme == "ansi-dark"
    assert appearance(TRUE | {"NO_COLOR": ""}, theme="light").theme == "mono"
    assert appearance(TRUE | {"NO_COLOR": ""}).ansi_color is True


@pytest.mark.parametrize(
    ("environ", "options", "glyphs"),
    [
        (TRUE, {}, UNICODE),
        (TRUE, {"encoding": "UTF-8"}, UNICODE),
        (TRUE, {"encoding": "latin-1"}, ASCII),
        (TRUE, {"encoding": None}, ASCII),
        (TRUE, {"ascii_only": True}, ASCII),
        ({"TERM": "linux"}, {}, ASCII),
    ],
)
def test_glyphs_are_ascii_where_others_may_be_missing(environ, options, glyphs):
    assert appearance(environ, **options).glyphs is glyphs


@pytest.mark.parametrize("name", THEMES)
async def test_an_app_takes_every_theme(name):
    app = WidgetApp(theme=name)

    async with app.run_test() as pilot:
        await pilot.pause()

        assert app.current_theme.name == name


async def test_a_plain_scroll_bar_has_no_block_glyphs(monkeypatch):
    monkeypatch.setattr(ScrollBar, "renderer", PlainScrollBar)

    class Scrolling(WidgetApp):
        def compose(self):
            with VerticalScroll():
                yield Facts([Fact("label", str(line)) for line in range(37)])

    app = Scrolling()

    async with app.run_test(size=(20, 10)) as pilot:
        await pilot.press("down", "down")
        await pilot.pause()

        assert screen_text(app).isascii()


@pytest.mark.parametrize("eyes", SEEN_BY)
@pytest.mark.parametrize("name", ["dark", "light"])
def test_states_and_series_stay_apart_for_every_eye(name, eyes):
    colors = text_colors(name)
    states = ("success", "warning", "error")

    apart = {
        frozenset(pair): difference(colors[pair[0]], colors[pair[1]], SEEN_BY[eyes])
        for pair in itertools.combinations(colors, 2)
    }

    # Two colours 0.02 apart in Oklab are just told from each other side by side.
    assert min(apart.values()) > 0.035
    assert min(apart[frozenset(p)] for p in itertools.combinations(states, 2)) > 0.09


@pytest.mark.parametrize("name", ["dark", "light"])
def test_every_text_is_readable_on_the_background(name):
    theme = THEMES[name]
    muted = theme.variables["text-muted"]

    for color in (theme.foreground, muted, *text_colors(name).values()):
        # Source: WCAG 2.2, 1.4.3, minimum contrast.
        assert contrast(color, theme.background) >= 4.5


def text_colors(name):
    names = ("primary", "secondary", "accent", "success", "warning", "error")
    return {each: THEMES[name].variables[f"text-{each}"] for each in names}


def contrast(one, other):
    darker, lighter = sorted((luminance(one), luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


def luminance(color):
    red, green, blue = (linear(part / 255) for part in Color.parse(color).rgb)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def difference(one, other, matrix):
    pairs = zip(oklab(one, matrix), oklab(other, matrix), strict=True)
    return sum((a - b) ** 2 for a, b in pairs) ** 0.5


def oklab(color, matrix):
    """Source: Ottosson 2020, https://bottosson.github.io/posts/oklab."""
    seen = product(matrix, [linear(part / 255) for part in Color.parse(color).rgb])
    cones = product(
        (
            (0.4122214708, 0.5363325363, 0.0514459929),
            (0.2119034982, 0.6806995451, 0.1073969566),
            (0.0883024619, 0.2817188376, 0.6299787005),
        ),
        [min(1.0, max(0.0, part)) for part in seen],
    )
    return product(
        (
            (0.2104542553, 0.7936177850, -0.0040720468),
            (1.9779984951, -2.4285922050, 0.4505937099),
            (0.0259040371, 0.7827717662, -0.8086757660),
        ),
        [part ** (1 / 3) for part in cones],
    )


def linear(part):
    return part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4


def product(matrix, vector):
    return [sum(a * b for a, b in zip(row, vector, strict=True)) for row in matrix]


# What xterm shows for the sixteen colours; Source: XTerm-col.ad.
XTERM = {
    "ansi_red": "#cd0000",
    "ansi_green": "#00cd00",
    "ansi_yellow": "#cdcd00",
    "ansi_blue": "#0000ee",
    "ansi_magenta": "#cd00cd",
    "ansi_cyan": "#00cdcd",
    "ansi_bright_blue": "#5c5cff",
    "ansi_bright_magenta": "#ff00ff",
}


@pytest.mark.parametrize(
    ("name", "ground"), [("ansi-dark", "black"), ("ansi-light", "white")]
)
def test_words_in_sixteen_colours_can_be_read(name, ground):
    theme = THEMES[name]
    words = (theme.primary, theme.secondary, theme.warning, theme.error)

    found = {word: contrast(XTERM[word], ground) for word in words}

    # Source: WCAG 2.2, 1.4.11, the least contrast of what is not text.
    assert min(found.values()) >= 3, found
    assert len(found) == len(words)
