"""Lines as spans of text and tone, and what must be sent to change one.

Pure: a tone is a name that a widget maps to a style, so the same lines serve
every theme, and a test reads them without a terminal. Widths are in cells.
"""

import re
from collections.abc import Iterable
from typing import NamedTuple

from rich.cells import cell_len, set_cell_size

from opsdash.units import MICRO, visible

_MERGE_CELLS = 20
"""Fewer equal cells than this cost less to send again than to step over."""
_BREAK = re.compile(r"(?<!\d) | (?!(?:%|[nµm]?s|min|h|d|[KMGTPE]?i?B)(?![\w/]))")
"""A blank that does not stand between a number and its unit."""

PAINTED = frozenset({"cursor", "blurred", "header", "title", "spot"})
"""Tones that show on a blank as well: they have a background or a line."""


class Span(NamedTuple):
    """A piece of a line."""

    text: str
    tone: str = ""
    """`ok`, `warn`, `bad`, `dim`, `accent`, `strong`, `title`, or a subclass's."""


Line = tuple[Span, ...]


def fit(text: str, width: int, *, ellipsis: str = "", right: bool = False) -> str:
    """Cut or pad `text` to exactly `width` cells, after making it visible.

    A text that is cut ends in `ellipsis`; `right` aligns it to the right.
    """
    # A cell holds at least one character: what is far beyond cannot be seen,
    # and a line of a megabyte must not cost a megabyte.
    text = visible(text[: 4 * width + 4])
    length = cell_len(text)
    if length > width:
        keep = max(0, width - cell_len(ellipsis))
        return set_cell_size(set_cell_size(text, keep) + ellipsis, width)
    padding = " " * (width - length)
    return padding + text if right else text + padding


def in_ascii(text: str) -> str:
    """Return `text` with `?` for every cell of what is not ASCII, `u` for a micro sign.

    The terminal may not be able to show it, nor stdout to encode it; the width
    stays, so that what was aligned still is.
    """
    text = text.replace(MICRO, "u")
    if text.isascii():
        return text
    return "".join(c if c.isascii() else "?" * cell_len(c) for c in text)


def within(spans: Iterable[Span], width: int, ellipsis: str) -> Line:
    """Return the spans that fit into `width` cells, the last one cut if need be."""
    kept: list[Span] = []
    left = width
    for text, tone in spans:
        shown = visible(text)
        if cell_len(shown) > left:
            kept.append(Span(fit(shown.rstrip(), left, ellipsis=ellipsis), tone))
            break
        kept.append(Span(shown, tone))
        left -= cell_len(shown)
    return tuple(kept)


def wrap(text: str, width: int) -> list[str]:
    """Break `text` into lines of at most `width` cells, at spaces where it can.

    A number and its unit stay together.
    """
    lines = [""]
    for word in _BREAK.split(visible(text)):
        joined = f"{lines[-1]} {word}" if lines[-1] else word
        if cell_len(joined) <= width:
            lines[-1] = joined
            continue
        if lines[-1]:
            lines.append("")
        *full, rest = _chop(word, max(1, width))
        lines[-1:] = [*full, rest]
    return lines


def _chop(word: str, width: int) -> list[str]:
    pieces, length = [""], 0
    for character in word:
        cells = cell_len(character)
        if length + cells > width and pieces[-1]:
            pieces.append("")
            length = 0
        pieces[-1] += character
        length += cells
    return pieces


def changed_cells(old: Line, new: Line) -> list[tuple[int, int]]:
    """Return the half-open cell ranges in which two lines differ, left to right.

    Close ranges are one, because going to each costs bytes as well.
    """
    before, after = _cells(old), _cells(new)
    short = min(len(before), len(after))
    ranges: list[tuple[int, int]] = []
    for x in range(short):
        if before[x] == after[x]:
            continue
        if ranges and x - ranges[-1][1] < _MERGE_CELLS:
            ranges[-1] = (ranges[-1][0], x + 1)
        else:
            ranges.append((x, x + 1))
    if len(before) != len(after):
        ranges.append((short, max(len(before), len(after))))
    return ranges


def _cells(line: Line) -> list[tuple[str, str]]:
    """One entry per cell: its character and tone; a wide one has two."""
    cells: list[tuple[str, str]] = []
    for text, tone in line:
        blank = (" ", tone if tone in PAINTED else "")
        for character in text:
            width = 1 if character.isascii() else cell_len(character)
            cell = blank if character == " " else (character, tone)
            if width == 0 and cells:
                cells[-1] = (cells[-1][0] + character, cells[-1][1])
            cells.extend([cell, (f"{character} ", tone)][:width])
    return cells
