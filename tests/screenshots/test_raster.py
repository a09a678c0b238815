import pyte
import pytest
from PIL import Image
from rich.segment import Segment
from rich.style import Style
from textual.strip import Strip

from screenshots import fonts
from screenshots.fonts import load_face
from screenshots.raster import DARK, LIGHT, Cell, draw, from_pyte, from_strips
from screenshots.shapes import mix

RED, BLUE = (255, 0, 0), (0, 0, 255)


def picture_of(character, tmp_path, **style):
    """Draw one character, red on blue; return its cell as an image."""
    cell = Cell(character, RED, BLUE, **style)
    path = draw([[cell]], tmp_path / "cell.png", size=32)
    image, margin = Image.open(path).convert("RGB"), 16
    return image.crop((margin, margin, image.width - margin, image.height - margin))


def share_of(image, color):
    data = image.tobytes()
    pixels = list(zip(data[::3], data[1::3], data[2::3], strict=True))
    return sum(pixel == color for pixel in pixels) / len(pixels)


@pytest.mark.parametrize(
    ("character", "red"),
    [("█", 1.0), ("▄", 0.5), ("▌", 0.5), ("▁", 0.125), ("▐", 0.5), ("▙", 0.75)],
)
def test_blocks_fill_their_part_of_the_cell(character, red, tmp_path):
    assert share_of(picture_of(character, tmp_path), RED) == pytest.approx(
        red, abs=0.05
    )


@pytest.mark.parametrize(("shade", "share"), [("░", 0.25), ("▒", 0.5), ("▓", 0.75)])
def test_a_shade_is_a_mixture(shade, share, tmp_path):
    assert share_of(picture_of(shade, tmp_path), mix(RED, BLUE, share)) == 1.0


def test_lines_reach_the_edges_of_the_cell(tmp_path):
    image = picture_of("┼", tmp_path)
    width, height = image.size

    edges = [(0, height // 2), (width - 1, height // 2), (width // 2, 0)]
    assert [image.getpixel(place) for place in edges] == [RED] * 3
    assert image.getpixel((1, 1)) == BLUE


def test_every_braille_dot_is_drawn_in_its_place(tmp_path):
    places = {}
    for bit in range(8):
        image = picture_of(chr(0x2800 + (1 << bit)), tmp_path)
        box = Image.eval(image.split()[0], lambda red: 255 * (red > 100)).getbbox()
        places[bit] = (
            int((box[0] + box[2]) / image.width),
            int(2 * (box[1] + box[3]) / image.height),
        )

    assert places == {
        0: (0, 0),
        1: (0, 1),
        2: (0, 2),
        3: (1, 0),
        4: (1, 1),
        5: (1, 2),
        6: (0, 3),
        7: (1, 3),
    }


def test_letters_are_set_in_a_font(tmp_path):
    letter = picture_of("M", tmp_path)
    blank = picture_of(" ", tmp_path)
    underlined = picture_of(" ", tmp_path, underline=True)

    assert 0.05 < 1 - share_of(letter, BLUE) < 0.6
    assert share_of(blank, BLUE) == 1.0
    assert share_of(underlined, RED) > 0


def test_styles_of_strips_are_resolved():
    strip = Strip(
        [
            Segment("a", Style.parse("red on default")),
            Segment("模", Style.parse("#010203 on #040506 bold")),
            Segment("b", Style.parse("reverse")),
            Segment("c", None),
        ]
    )

    (row,) = from_strips([strip], LIGHT)

    assert [cell.text for cell in row] == ["a", "模", "", "b", "c"]
    assert (row[0].color, row[0].background) == (LIGHT.ansi[1], LIGHT.background)
    assert row[1] == Cell("模", (1, 2, 3), (4, 5, 6), bold=True)
    assert (row[3].color, row[3].background) == (LIGHT.background, LIGHT.foreground)
    assert (row[4].color, row[4].background) == (LIGHT.foreground, LIGHT.background)


def test_dim_text_is_nearer_to_its_background():
    (row,) = from_strips([Strip([Segment("x", Style.parse("dim"))])], DARK)

    assert DARK.background < row[0].color < DARK.foreground


def test_a_screen_in_memory_is_resolved():
    screen = pyte.Screen(6, 1)
    pyte.Stream(screen).feed("\x1b[33ma\x1b[94mb\x1b[38;2;1;2;3mc\x1b[0;1;7md\x1b[0m模")

    (row,) = from_pyte(screen)

    assert [cell.text for cell in row] == ["a", "b", "c", "d", "模", ""]
    assert [cell.color for cell in row[:3]] == [DARK.ansi[3], DARK.ansi[12], (1, 2, 3)]
    assert (row[3].color, row[3].background) == (DARK.background, DARK.foreground)
    assert row[3].bold


def test_without_a_font_it_says_so_and_draws(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(fonts, "_FONTS", ())
    monkeypatch.setattr(fonts, "_fontconfig", lambda pattern: None)
    load_face.cache_clear()

    path = draw([[Cell("M", RED, BLUE)]], tmp_path / "cell.png", size=32)

    load_face.cache_clear()
    assert "fonts-dejavu-core" in capsys.readouterr().err
    assert path.stat().st_size > 0
