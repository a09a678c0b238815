"""What a number from disk must satisfy before anything is computed with it.

JSON holds integers of any size and writers have bugs: a step of 10^30 must
neither overflow an array nor allocate one. What is not plausible is None, as if
the writer had not said it.
"""

import math

MAX_COUNT = 2**53
MAX_RANKS = 65_536
MAX_NODES = 4_096
"""Processes whose state is kept; more are counted, not shown."""
MAX_NS = 400 * 365 * 86_400 * 10**9
_MAX_TEXT = 240


def whole(value: int | None, most: int = MAX_COUNT) -> int | None:
    """Return a count or a step within range, else None."""
    return value if value is not None and 0 <= value <= most else None


def nanoseconds(value: int | None) -> int | None:
    """Return an interval within range, else None."""
    return value if value is not None and 0 <= value <= MAX_NS else None


def finite(value: float | None) -> float | None:
    """Return a number that can be drawn, else None."""
    return value if value is not None and math.isfinite(value) else None


def clip(text: str, most: int = _MAX_TEXT) -> str:
    """Return text of bounded length; what was cut is told by dots."""
    return text if len(text) <= most else f"{text[: most - 3]}..."
