"""Say numbers, times and foreign text the way the screens do.

Everything is pure and total: any number gives a short text, None gives
`MISSING`, and nothing raises on what a damaged file may hold. Texts are ASCII
but for one sign, `MICRO`, which is one cell like the `u` that stands for it where
it cannot be shown; three significant digits are enough to compare and few enough
to keep a column narrow.
"""

import math
import unicodedata
from collections.abc import Iterable
from datetime import UTC, datetime, tzinfo

MISSING = "-"
"""Shown where a value is not known."""

MICRO = "\u00b5"
"""In front of a unit: a millionth."""

_NS_PER_S = 1_000_000_000
_SI_SCALES = ((1.0, ""), (1e3, "k"), (1e6, "M"), (1e9, "G"), (1e12, "T"))
_BYTE_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
_BIGGEST_BYTES = 1024.0 ** len(_BYTE_UNITS)
_AGO_UNITS = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))
# Separators have a width; the rest of what is not printable may move the
# cursor, reorder the line or take no room at all.
_SPACES = "Zs"
_VARIATION_SELECTORS = frozenset("\ufe0e\ufe0f")


def number(value: float | None) -> str:
    """Return three significant digits: `0.00123`, `12.3`, `1.24k`, `4.5e-7`."""
    if value is None:
        return MISSING
    value = _as_float(value)
    magnitude = abs(value)
    if not math.isfinite(value):
        return str(value)
    if magnitude == 0:
        return "0"
    if magnitude < 1e-3:
        return _exponential(value)
    for scale, suffix in _SI_SCALES:
        # 999.5 would round to 1e+03: it belongs to the next unit.
        if magnitude < 999.5 * scale:
            return f"{value / scale:.3g}{suffix}"
    return _exponential(value)


def count(value: int | None) -> str:
    """Return a whole number with separators, such as steps: `1,240`."""
    if value is None:
        return MISSING
    if abs(value) >= 10**15:
        return number(value)
    return f"{value:,d}"


def percent(frac: float | None) -> str:
    """Return a fraction as percent: `4.2 %`, `37 %`.

    Only 1.0 and more say 100, and only 0.0 says 0: a job at 0.9999 is not done.
    """
    if frac is None:
        return MISSING
    value = 100 * _as_float(frac)
    magnitude = abs(value)
    if not math.isfinite(value):
        return f"{value} %"
    if 0 < magnitude < 0.1:
        return "<0.1 %" if value > 0 else ">-0.1 %"
    if 99.5 <= magnitude < 100:
        return f"{math.copysign(99.9, value)} %"
    if magnitude >= 1e6:
        return f"{number(value)} %"
    return f"{value:.1f} %" if magnitude < 9.95 else f"{value:.0f} %"


def byte_size(num_bytes: float | None) -> str:
    """Return a size in binary units: `512 B`, `1.42 GiB`."""
    if num_bytes is None:
        return MISSING
    value = _as_float(num_bytes)
    if not abs(value) < _BIGGEST_BYTES:
        return f"{number(value)} B"
    unit = 0
    while abs(value) >= 999.5:
        value /= 1024
        unit += 1
    return f"{value:.3g} {_BYTE_UNITS[unit]}"


def rate(per_s: float | None, what: str) -> str:
    """Return a frequency in the unit that keeps it readable: `12.5 steps/s`."""
    if per_s is None:
        return MISSING
    value = _as_float(per_s)
    for seconds, unit in ((1, "s"), (60, "min")):
        if value == 0 or abs(value * seconds) >= 0.1:
            return f"{number(value * seconds)} {what}/{unit}"
    return f"{number(value * 3600)} {what}/h"


def duration(ns: int | None) -> str:
    """Return an interval: `420 µs`, `26.4 ms`, `1.2 s`, `5 min 03 s`, `3 d 04 h`."""
    if ns is None:
        return MISSING
    if ns < 0:
        return f"-{duration(-ns)}"
    if ns < 59_950_000_000:
        return _below_a_minute(ns)
    seconds = (ns + _NS_PER_S // 2) // _NS_PER_S
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60:02d} s"
    minutes = (seconds + 30) // 60
    if minutes < 24 * 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    hours = (minutes + 30) // 60
    return f"{count(hours // 24)} d {hours % 24:02d} h"


def ago(ns: int | None) -> str:
    """Return how long something is past: `now`, `12 s ago`, `3 h ago`.

    A negative interval, as between hosts whose clocks differ, is `in 5 s`.
    """
    if ns is None:
        return MISSING
    seconds = abs(ns) // _NS_PER_S
    for unit_s, unit in _AGO_UNITS:
        if seconds >= unit_s:
            text = f"{count(seconds // unit_s)} {unit}"
            return f"{text} ago" if ns > 0 else f"in {text}"
    return "now"


def clock_time(time_ns: int | None, zone: tzinfo = UTC) -> str:
    """Return the time of day of a wall clock reading (Unix ns): `14:03:22`."""
    if time_ns is None:
        return MISSING
    try:
        moment = datetime.fromtimestamp(time_ns // _NS_PER_S, zone)
    except (OverflowError, OSError, ValueError):
        return MISSING  # no calendar reaches there: the writer's clock is wrong
    return f"{moment:%H:%M:%S}"


def rank_ranges(ranks: Iterable[int], most: int = 6) -> str:
    """Return ranks as ranges, `0-2, 5`, and how many more there are after `most`."""
    runs: list[list[int]] = []
    for rank in sorted(set(ranks)):
        if runs and rank == runs[-1][1] + 1:
            runs[-1][1] = rank
        else:
            runs.append([rank, rank])
    texts = [f"{a}" if a == b else f"{a}-{b}" for a, b in runs[:most]]
    hidden = sum(b - a + 1 for a, b in runs[most:])
    return ", ".join([*texts, f"{hidden} more"] if hidden else texts)


def visible(text: str) -> str:
    r"""Return `text` with every character that could act spelt as an escape.

    Control and formatting characters, bidirectional marks, lone surrogates
    and unassigned code points become `\x1b`, `\u202e` and so on; so do
    variation selectors, about whose width terminals disagree. A newline is a
    control character here: split first where lines are meant.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(_visible_character(character) for character in text)


def _visible_character(character: str) -> str:
    if character in _VARIATION_SELECTORS:
        return f"\\u{ord(character):04x}"
    if character.isprintable() or unicodedata.category(character) == _SPACES:
        return character
    code = ord(character)
    if code <= 0xFF:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


def _below_a_minute(ns: int) -> str:
    for scale, unit in ((1, "ns"), (1e3, f"{MICRO}s"), (1e6, "ms")):
        if ns < 999.5 * scale:
            return f"{ns / scale:.3g} {unit}"
    return f"{ns / 1e9:.1f} s"


def _exponential(value: float) -> str:
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}"


def _as_float(value: float) -> float:
    # JSON has integers beyond the range of a double.
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf
