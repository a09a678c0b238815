"""Events by stretches: consecutive ones of a segment, or what stands for them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from agent.rundir.events import AnyEvent, Undecodable, decode, decode_lines, kind
from agent.rundir.rollup import Block, count_missing, kept_lines, split_lines
from agent.rundir.thinning import Line


class Span(NamedTuple):
    """A range of steps or of times, both ends included; None: open."""

    first: int | None = None
    last: int | None = None

    def meets(self, least: int | None, greatest: int | None) -> bool:
        """Whether a range of known ends has anything in it; None ends: nothing."""
        if least is None or greatest is None:
            return False
        return (self.last is None or least <= self.last) and (
            self.first is None or greatest >= self.first
        )


class Stretch(NamedTuple):
    """Consecutive events of one segment, or those that stand for them."""

    segment: int
    begin: int
    """The bytes of the segment's file that this covers."""
    end: int
    events: tuple[AnyEvent | Undecodable, ...]
    offsets: tuple[int, ...]
    """Where each event's line begins in the segment's file, bytes."""
    counts: Mapping[str, int]
    """All events covered, by kind; more than `events` where they were thinned."""
    num_bad: int
    """Lines covered that are not events."""
    num_missing: int
    """Events that never reached the log, here and since the stretch before."""
    is_thinned: bool


def kept(block: Block, num_missing_before: int) -> Stretch:
    """Return what a roll-up kept of a window.

    Args:
        block: Of the roll-up.
        num_missing_before: Events that were dropped just before the window.
    """
    head = block.head
    lines = kept_lines(block)
    return Stretch(
        segment=head.segment,
        begin=head.begin,
        end=head.end,
        events=tuple(_decode(block.body, lines)),
        offsets=tuple(line.offset for line in lines),
        counts=head.counts,
        num_bad=head.num_bad,
        num_missing=num_missing_before + head.num_missing,
        is_thinned=True,
    )


def exact(segment: int, begin: int, data: bytes) -> Stretch:
    """Return every event of a piece of a segment that begins at a line."""
    lines = split_lines(data, begin)
    events = _decode(data, lines)
    good = [event for event in events if not isinstance(event, Undecodable)]
    return Stretch(
        segment=segment,
        begin=begin,
        end=begin + len(data),
        events=tuple(events),
        offsets=tuple(line.offset for line in lines),
        counts=Counter(kind(event) for event in good),
        num_bad=len(events) - len(good),
        num_missing=count_missing([event.seq for event in good]),
        is_thinned=False,
    )


def _decode(data: bytes, lines: Sequence[Line]) -> list[AnyEvent | Undecodable]:
    events = decode_lines(data)
    if len(events) != len(lines):
        # Several objects on one line, or one over several: by the line then.
        events = [decode(line.text) for line in lines]
    return events


def select(stretch: Stretch, steps: Span | None, time_ns: Span | None) -> Stretch:
    """Return the stretch with the events of a range only; None: of any."""
    chosen = [
        (event, offset)
        for event, offset in zip(stretch.events, stretch.offsets, strict=True)
        if not isinstance(event, Undecodable)
        and (steps is None or steps.meets(event.step, event.step))
        and (time_ns is None or time_ns.meets(event.time_ns, event.time_ns))
    ]
    return stretch._replace(
        events=tuple(event for event, _ in chosen),
        offsets=tuple(offset for _, offset in chosen),
    )
