"""Draw the characters that terminals draw themselves: blocks, lines, braille.

Each fills its cell to the edge, so that neighbours join without a seam.
"""

from typing import NamedTuple

from PIL import ImageDraw

Rgb = tuple[int, int, int]

_HEIGHTS = "▁▂▃▄▅▆▇█"
_WIDTHS = "▏▎▍▌▋▊▉"
_SHADES = {"░": 0.25, "▒": 0.5, "▓": 0.75}
_BRAILLE_DOTS = ((0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2), (0, 3), (1, 3))
_QUADRANTS = {"▘": 1, "▝": 2, "▖": 4, "▗": 8, "▀": 3, "▐": 10, "▚": 9, "▞": 6}
_QUADRANTS |= {"▙": 13, "▛": 7, "▜": 11, "▟": 14}
# A box character and its arms: left, right, up, down; 2 is heavy.
_BOX_ARMS = (
    "─1100 ━2200 │0011 ┃0022 ┌0101 ┐1001 └0110 ┘1010 ├0111 "
    "┤1011 ┬1101 ┴1110 ┼1111 ╭0101 ╮1001 ╰0110 ╯1010 ╶0100 "
    "╴1000 ╵0010 ╷0001 ┏0202 ┓2002 ┗0220 ┛2020 ╸2000 ╺0200 "
)
_BOXES = {entry[0]: entry[1:] for entry in _BOX_ARMS.split()}


class Box(NamedTuple):
    """Where a cell lies, in pixels."""

    left: int
    top: int
    width: int
    height: int


def mix(color: Rgb, other: Rgb, share: float) -> Rgb:
    """Return `share` of `color` in `other`."""
    red, green, blue = (
        round(a * share + b * (1 - share)) for a, b in zip(color, other, strict=True)
    )
    return red, green, blue


def draw_shape(
    canvas: ImageDraw.ImageDraw,
    character: str,
    box: Box,
    color: Rgb,
    background: Rgb,
) -> bool:
    """Draw a block, shade, box or braille character; False if it is none."""
    left, top, width, height = box
    right, bottom = left + width - 1, top + height - 1
    if 0x2800 <= ord(character) <= 0x28FF:
        _draw_braille(canvas, ord(character) - 0x2800, box, color)
    elif character in _HEIGHTS:
        part = round(height * (_HEIGHTS.index(character) + 1) / 8)
        canvas.rectangle((left, bottom - part + 1, right, bottom), fill=color)
    elif character in _WIDTHS:
        part = max(1, round(width * (_WIDTHS.index(character) + 1) / 8))
        canvas.rectangle((left, top, left + part - 1, bottom), fill=color)
    elif character in _SHADES:
        shade = mix(color, background, _SHADES[character])
        canvas.rectangle((left, top, right, bottom), fill=shade)
    elif character in _QUADRANTS:
        _draw_quadrants(canvas, _QUADRANTS[character], box, color)
    elif character == "┊":
        _draw_dashes(canvas, box, color)
    elif character in _BOXES:
        _draw_box(canvas, character, box, color)
    else:
        return False
    return True


def _draw_braille(canvas: ImageDraw.ImageDraw, bits: int, box: Box, color: Rgb) -> None:
    left, top, width, height = box
    radius = max(1.0, width * 0.17)
    for bit, (column, row) in enumerate(_BRAILLE_DOTS):
        if bits >> bit & 1:
            x = left + width * (0.25 + 0.5 * column)
            y = top + height * (0.125 + 0.25 * row)
            canvas.ellipse((x - radius, y - radius, x + radius, y + radius), fill=color)


def _draw_quadrants(
    canvas: ImageDraw.ImageDraw, bits: int, box: Box, color: Rgb
) -> None:
    left, top, width, height = box
    middle_x, middle_y = left + width // 2, top + height // 2
    for bit in range(4):
        if bits >> bit & 1:
            x0, x1 = (middle_x, left + width) if bit & 1 else (left, middle_x)
            y0, y1 = (middle_y, top + height) if bit & 2 else (top, middle_y)
            canvas.rectangle((x0, y0, x1 - 1, y1 - 1), fill=color)


def _draw_box(
    canvas: ImageDraw.ImageDraw,
    character: str,
    box: Box,
    color: Rgb,
) -> None:
    left, top, width, height = box
    x, y = left + width // 2, top + height // 2
    thin = max(1, width // 8)
    ends = ((left, y), (left + width - 1, y), (x, top), (x, top + height - 1))
    for weight, (end_x, end_y) in zip(_BOXES[character], ends, strict=True):
        if weight != "0":
            canvas.line((x, y, end_x, end_y), fill=color, width=thin * int(weight))


def _draw_dashes(canvas: ImageDraw.ImageDraw, box: Box, color: Rgb) -> None:
    x, thin = box.left + box.width // 2, max(1, box.width // 8)
    for part in range(4):
        y = box.top + box.height * (2 * part + 1) // 8
        canvas.line((x, y, x, y + box.height // 8), fill=color, width=thin)
