"""Which lines of a window of telemetry to keep when the rest is left out.

Rare kinds say what happened and are kept; kinds that come with every step or
second say how things stand, and the last of them says so for the window. Of
steps the least and the greatest loss stay as well, so that a curve drawn from
what was kept has every peak.
"""

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

FREQUENT = frozenset(
    {
        "heartbeat",
        "host_stats",
        "optimizer_norms",
        "collectives_sampled",
        "barrier_arrived",
        "barrier_released",
        "store_stats",
    }
)
"""Kinds of which the last one stands for all; steps have a rule of their own."""
_STEP = "step_done"
_MAX_PER_KIND = 32
"""Of a rare kind: half of them the first, half the last."""
_MAX_BAD = 2
_MAX_LINE_BYTES = 16 << 10
_MAX_BYTES = 64 << 10


class Line(NamedTuple):
    """A line and where it begins."""

    offset: int
    text: bytes
    """Newline included."""


class Mark(msgspec.Struct):
    """As much of an event as thinning needs."""

    kind: str
    seq: int = 0
    step: int | None = None
    time_ns: int | None = None
    loss: float | None = None
    is_skipped: bool = False
    nonfinite: str | None = None


_decoder = msgspec.json.Decoder(Mark)


def peek(lines: Sequence[Line]) -> list[Mark | None]:
    """Return what each line says; None: it is not an event."""
    try:
        return list(_decoder.decode_lines(b"".join(line.text for line in lines)))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return [_peek_one(line.text) for line in lines]


def choose(lines: Sequence[Line], marks: Sequence[Mark | None]) -> list[int]:
    """Return the indices of the lines to keep, in order; a bounded number of bytes."""
    by_kind: dict[str | None, list[int]] = {}
    for index, mark in enumerate(marks):
        by_kind.setdefault(_class_of(mark), []).append(index)
    kept: set[int] = set()
    for kind, found in by_kind.items():
        if kind is None:
            kept.update(found[:_MAX_BAD])
        elif kind == _STEP:
            kept.update(_extremes(found, marks))
        elif kind in FREQUENT:
            kept.add(found[-1])
        else:
            kept.update(found[: _MAX_PER_KIND // 2] + found[-_MAX_PER_KIND // 2 :])
    return _within_limits(lines, sorted(kept))


def _peek_one(line: bytes) -> Mark | None:
    try:
        return _decoder.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _class_of(mark: Mark | None) -> str | None:
    if mark is None:
        return None
    if mark.kind == _STEP and (mark.is_skipped or mark.nonfinite):
        return "step_done, not finite"
    return mark.kind


def _extremes(found: list[int], marks: Sequence[Mark | None]) -> set[int]:
    losses = [(m.loss, i) for i in found if (m := marks[i]) and m.loss is not None]
    if not losses:
        return {found[-1]}
    return {found[-1], min(losses)[1], max(losses)[1]}


def _within_limits(lines: Sequence[Line], kept: list[int]) -> list[int]:
    """Leave out what is too long, then the oldest."""
    total, chosen = 0, []
    for index in reversed(kept):
        size = len(lines[index].text)
        if size > _MAX_LINE_BYTES or total + size > _MAX_BYTES:
            continue
        total += size
        chosen.append(index)
    return chosen[::-1]
