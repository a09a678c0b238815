"""Draw terminal screens as PNG pictures.

Blocks, box lines and braille are drawn as shapes, as terminals do it, because
fonts lack them or leave seams between them; only ordinary text is set in a
font. A screen comes from Textual's strips or from a pyte screen, so both the
widgets in a test and a real program under a pseudo-terminal can be pictured.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageDraw
from pyte.screens import Char, Screen
from rich.cells import cell_len
from rich.color import Color
from rich.style import Style
from rich.terminal_theme import TerminalTheme

from screenshots.fonts import Face, load_face
from screenshots.shapes import Box, Rgb, draw_shape, mix


@dataclass(frozen=True)
class Palette:
    """The colours of a terminal: its default pair and the sixteen of ANSI."""

    foreground: Rgb
    background: Rgb
    ansi: tuple[Rgb, ...]

    @property
    def rich_theme(self) -> TerminalTheme:
        """The same colours for Rich."""
        dark, bright = list(self.ansi[:8]), list(self.ansi[8:])
        return TerminalTheme(self.background, self.foreground, dark, bright)


def _rgb(colors: str) -> tuple[Rgb, ...]:
    return tuple(
        (int(hexed[0:2], 16), int(hexed[2:4], 16), int(hexed[4:6], 16))
        for hexed in colors.split()
    )


DARK = Palette(
    (216, 222, 230),
    (18, 22, 28),
    _rgb(
        "1e1e1e cd4a4a 2fbf8a d9c22f 4f8fe0 bf5fbf 2fb0c8 d5d5d5"
        " 7a7a7a ff7a6a 5fe0a8 ffe95f 7fb2ff e58fe5 6fdcf0 ffffff"
    ),
)
LIGHT = Palette(
    (28, 33, 40),
    (251, 251, 248),
    _rgb(
        "101010 b01e1e 107a4a 8a6d00 1f55b5 8a2f8a 0f7486 c4c4c4"
        " 6a6a6a d83a2a 1f9a5f a88400 3f7ae0 b54fb5 1f95a8 f4f4f4"
    ),
)


class Cell(NamedTuple):
    """One cell of a screen, its colours resolved."""

    text: str
    """Empty behind a character that is two cells wide."""
    color: Rgb
    background: Rgb
    bold: bool = False
    underline: bool = False


def from_strips(strips: Iterable, palette: Palette = DARK) -> list[list[Cell]]:
    """Resolve Textual strips, such as the compositor's `render_strips()`."""
    rows = []
    for strip in strips:
        row: list[Cell] = []
        for text, style, *_ in strip:
            for character in text:
                width = cell_len(character)
                cell = _resolve(character, style or Style.null(), palette)
                row.extend([cell, cell._replace(text="")][:width])
        rows.append(row)
    return rows


def from_pyte(screen: Screen, palette: Palette = DARK) -> list[list[Cell]]:
    """Resolve a pyte screen; its `blink` stands for dim (see pty_terminal)."""
    rows = []
    for y in range(screen.lines):
        line = screen.buffer[y]
        rows.append([_resolve_pyte(line[x], palette) for x in range(screen.columns)])
    return rows


def draw(rows: Sequence[Sequence[Cell]], path: Path, *, size: int = 28) -> Path:
    """Write the screen as a PNG, in a font of `size` pixels."""
    face = load_face(size)
    # The margin takes the colour that most of the screen has.
    colors = Counter(cell.background for row in rows for cell in row)
    background = colors.most_common(1)[0][0] if colors else DARK.background
    width = max((len(row) for row in rows), default=1)
    margin = size // 2
    image = Image.new(
        "RGB",
        (face.width * width + 2 * margin, face.height * len(rows) + 2 * margin),
        background,
    )
    canvas = ImageDraw.Draw(image)
    for y, row in enumerate(rows):
        for x, cell in enumerate(row):
            left, top = margin + x * face.width, margin + y * face.height
            _draw_cell(canvas, cell, left, top, face)
    image.save(path, optimize=True)
    return path


def _draw_cell(
    canvas: ImageDraw.ImageDraw, cell: Cell, left: int, top: int, face: Face
) -> None:
    right, bottom = left + face.width - 1, top + face.height - 1
    canvas.rectangle((left, top, right, bottom), fill=cell.background)
    if cell.underline:
        canvas.rectangle((left, bottom - 1, right, bottom), fill=cell.color)
    character = cell.text[:1]
    if not character.strip():
        return
    box = Box(left, top, face.width, face.height)
    if not draw_shape(canvas, character, box, cell.color, cell.background):
        font = face.bold if cell.bold else face.regular
        canvas.text((left, top), cell.text, font=font, fill=cell.color)


def _resolve(character: str, style: Style, palette: Palette) -> Cell:
    theme = palette.rich_theme
    color = _true(style.color, palette.foreground, theme)
    background = _true(style.bgcolor, palette.background, theme)
    return _finish(
        character,
        color,
        background,
        reverse=bool(style.reverse),
        dim=bool(style.dim),
        bold=bool(style.bold),
        underline=bool(style.underline),
    )


def _true(color: Color | None, default: Rgb, theme: TerminalTheme) -> Rgb:
    if color is None or color.is_default:
        return default
    return tuple(color.get_truecolor(theme))  # type: ignore[return-value] # a triplet


_PYTE_NAMES = ("black", "red", "green", "brown", "blue", "magenta", "cyan", "white")


def _resolve_pyte(char: Char, palette: Palette) -> Cell:
    return _finish(
        char.data,
        _pyte_color(char.fg, palette.foreground, palette),
        _pyte_color(char.bg, palette.background, palette),
        reverse=char.reverse,
        dim=char.blink,
        bold=char.bold,
        underline=char.underscore,
    )


def _pyte_color(name: str, default: Rgb, palette: Palette) -> Rgb:
    if name == "default":
        return default
    if re.fullmatch("[0-9a-f]{6}", name):
        return _rgb(name)[0]
    # pyte spells one bright colour `bfightmagenta` and the bright yellow `brown`.
    bright = 8 * name.startswith(("bright", "bfight"))
    plain = re.sub("^b[rf]ight", "", name).replace("yellow", "brown")
    return palette.ansi[_PYTE_NAMES.index(plain) + bright]


def _finish(
    character: str,
    color: Rgb,
    background: Rgb,
    *,
    reverse: bool,
    dim: bool,
    bold: bool,
    underline: bool,
) -> Cell:
    if reverse:
        color, background = background, color
    if dim:
        color = mix(color, background, 0.55)
    return Cell(character, color, background, bold, underline)
