"""What all reports have in common, and how they are set in 80 columns.

A report is a struct: JSON is its fields, text is made from the same fields, so
the two cannot drift apart. Text from disk is made visible here, once, for every
line that is printed.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from agent.rundir.readable import readable
from opsdash.units import visible

REPORT_SCHEMA = 1
WIDTH = 80
_LABEL = 10
_VOLATILE = ("time_ns", "age_ns", "waited_ns", "silence_ns", "still_ns")


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """Fields that every report begins with."""

    schema: int = REPORT_SCHEMA
    report: str
    """Which one: `status`, `events` …"""
    run: str
    """The run directory, as it was given."""
    time_ns: int
    """Wall clock when it was made, Unix ns."""


def to_json(report: msgspec.Struct) -> str:
    """Return a report as one line of JSON; names that are no UTF-8 have escapes."""
    try:
        return msgspec.json.encode(report).decode()
    except UnicodeEncodeError:
        plain = readable(msgspec.to_builtins(report))
        return msgspec.json.encode(plain).decode()


def news_of(report: msgspec.Struct) -> object:
    """Return what counts as a change: everything but the passing of time."""
    return _without_time(msgspec.to_builtins(report))


def fields(pairs: Iterable[tuple[str, str]]) -> list[str]:
    """Set labels and values under each other; long values are wrapped."""
    lines: list[str] = []
    for label, value in pairs:
        rest = wrap(value, WIDTH - _LABEL)
        lines.append(f"{label:<{_LABEL}}{rest[0]}")
        lines += [" " * _LABEL + text for text in rest[1:]]
    return lines


def wrap(text: str, width: int) -> list[str]:
    """Break text at spaces; a word that is too long is broken anywhere.

    Commands are not wrapped by this: they are there to be pasted.
    """
    lines, line = [], ""
    for word in visible(text).split(" "):
        joined = f"{line} {word}" if line else word
        if len(joined) <= width:
            line = joined
            continue
        if line:
            lines.append(line)
        *full, line = _pieces(word, width)
        lines += full
    return [*lines, line]


def _pieces(word: str, width: int) -> list[str]:
    return [word[at : at + width] for at in range(0, len(word), width)] or [""]


def table(
    head: Sequence[str], rows: Sequence[Sequence[str]], *, right: Iterable[int] = ()
) -> list[str]:
    """Set rows in columns; the last column takes what is left of the line.

    Args:
        head: A title per column.
        rows: Texts, as many as titles.
        right: Columns that are set to the right, as numbers are.
    """
    texts = [[visible(cell) for cell in row] for row in rows]
    to_right = set(right)
    widths = [
        max([len(title), *(len(row[index]) for row in texts)])
        for index, title in enumerate(head)
    ]
    lines = []
    for row in [list(head), *texts]:
        cells = [
            cell.rjust(widths[index])
            if index in to_right
            else cell.ljust(widths[index])
            for index, cell in enumerate(row[:-1])
        ]
        room = WIDTH - sum(len(cell) + 2 for cell in cells)
        cells.append(cut(row[-1], max(room, 10)))
        lines.append("  ".join(cells).rstrip())
    return lines


def cut(text: str, width: int) -> str:
    """Return text of at most so many characters; dots tell that more was there."""
    return text if len(text) <= width else f"{text[: max(0, width - 3)]}..."


def _without_time(value: Any) -> object:  # noqa: ANN401 - whatever JSON holds
    if isinstance(value, dict):
        return {
            key: _without_time(item)
            for key, item in value.items()
            if not str(key).endswith(_VOLATILE)
        }
    if isinstance(value, (list, tuple)):
        return [_without_time(item) for item in value]
    return value
