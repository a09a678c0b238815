"""The roll-up of a process's telemetry: a thinned copy of its log, as its index.

A block stands for a window of one segment: a head line that says which window,
and what it held, then copies of the lines worth keeping. What folds events
folds a block likewise; who needs every event reads the window itself.

The process that writes the log writes its roll-up. It may lag, be torn or be
missing: the log is the truth.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import BinaryIO, NamedTuple

import msgspec

from agent.rundir.thinning import Line, Mark, choose, peek

_MAX_HEAD_BYTES = 64 << 10
_MAX_BODY_BYTES = 128 << 10
_MAX_KINDS = 64


class Head(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    omit_defaults=True,
    tag_field="kind",
    tag="rolled_up",
):
    """What a block stands for."""

    segment: int
    begin: int
    """Where the window begins in the segment, bytes."""
    end: int
    body_bytes: int
    """Of the kept lines, which follow."""
    at: tuple[int, ...]
    """Where each of them begins in the segment, counted from `begin`."""
    counts: dict[str, int]
    """Events of the window by kind, kept or not."""
    num_bad: int = 0
    """Lines that are not events."""
    num_missing: int = 0
    """Gaps in the sequence within the window: events that were dropped."""
    first_seq: int | None = None
    last_seq: int | None = None
    min_step: int | None = None
    max_step: int | None = None
    min_time_ns: int | None = None
    max_time_ns: int | None = None


class Block(NamedTuple):
    """A head, and the lines that were kept."""

    head: Head
    body: bytes
    """Whole lines, newlines included."""


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Head)


def roll_up(data: bytes, *, segment: int, begin: int) -> Block:
    """Return the block of a window.

    Args:
        data: Whole lines; what follows the last newline counts as a bad one.
        segment: Where they are from.
        begin: Where they begin in its file, bytes.
    """
    lines = split_lines(data, begin)
    marks = peek(lines)
    good = [mark for mark in marks if mark is not None]
    steps = [mark.step for mark in good if mark.step is not None]
    times = [mark.time_ns for mark in good if mark.time_ns is not None]
    kept = [line for i in choose(lines, marks) if (line := lines[i]).text[-1:] == b"\n"]
    head = Head(
        segment=segment,
        begin=begin,
        end=begin + len(data),
        body_bytes=sum(len(line.text) for line in kept),
        at=tuple(line.offset - begin for line in kept),
        counts=_count_kinds(good),
        num_bad=len(marks) - len(good),
        num_missing=count_missing([mark.seq for mark in good]),
        first_seq=good[0].seq if good else None,
        last_seq=good[-1].seq if good else None,
        min_step=min(steps, default=None),
        max_step=max(steps, default=None),
        min_time_ns=min(times, default=None),
        max_time_ns=max(times, default=None),
    )
    return Block(head, b"".join(line.text for line in kept))


def merge(older: Block, newer: Block) -> Block:
    """Return one block for two that follow one another in the same segment."""
    one, two = older.head, newer.head
    lines = kept_lines(older) + kept_lines(newer)
    kept = [lines[i] for i in choose(lines, peek(lines))]
    gap = missing_between(one.last_seq, two.first_seq)
    head = Head(
        segment=one.segment,
        begin=one.begin,
        end=two.end,
        body_bytes=sum(len(line.text) for line in kept),
        at=tuple(line.offset - one.begin for line in kept),
        counts=dict(Counter(one.counts) + Counter(two.counts)),
        num_bad=one.num_bad + two.num_bad,
        num_missing=one.num_missing + gap + two.num_missing,
        first_seq=two.first_seq if one.first_seq is None else one.first_seq,
        last_seq=one.last_seq if two.last_seq is None else two.last_seq,
        min_step=_pick(min, one.min_step, two.min_step),
        max_step=_pick(max, one.max_step, two.max_step),
        min_time_ns=_pick(min, one.min_time_ns, two.min_time_ns),
        max_time_ns=_pick(max, one.max_time_ns, two.max_time_ns),
    )
    return Block(head, b"".join(line.text for line in kept))


def encode_block(block: Block) -> bytes:
    """Return a block as it stands in the file."""
    return _encoder.encode(block.head) + b"\n" + block.body


def read_blocks(file: BinaryIO) -> Iterator[Block]:
    """Yield blocks from where the file stands, up to the first that is not whole.

    Raises:
        OSError: it cannot be read.
    """
    while line := file.readline(_MAX_HEAD_BYTES):
        try:
            head = _decoder.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return
        if not (
            0 <= head.begin < head.end
            and head.segment >= 1
            and 0 <= head.body_bytes <= _MAX_BODY_BYTES
        ):
            return
        body = file.read(head.body_bytes)
        if len(body) < head.body_bytes or body.count(b"\n") != len(head.at):
            return
        yield Block(head, body)


def kept_lines(block: Block) -> list[Line]:
    """Return what was kept, and where each line begins in the segment."""
    texts = block.body.split(b"\n")[:-1]
    return [
        Line(block.head.begin + at, text + b"\n")
        for at, text in zip(block.head.at, texts, strict=True)
    ]


def split_lines(data: bytes, begin: int) -> list[Line]:
    """Return the lines of a piece of a file that are not blank."""
    lines = []
    for text in data.split(b"\n"):
        end = begin + len(text) + 1
        if text and not text.isspace():
            lines.append(Line(begin, text + b"\n"))
        begin = end
    if lines and not data.endswith(b"\n"):
        offset, text = lines.pop()
        lines.append(Line(offset, text[:-1]))
    return lines


def missing_between(last_seq: int | None, first_seq: int | None) -> int:
    """Return how many events a gap between two numbers stands for."""
    if last_seq is None or first_seq is None:
        return 0
    # A lower number is a process that began anew, or threads that overlapped.
    return max(0, first_seq - last_seq - 1)


def count_missing(seqs: Sequence[int]) -> int:
    """Count gaps; numbers may be out of order by a little, and begin anew at 0."""
    missing, begin = 0, 0
    starts = [index for index, seq in enumerate(seqs) if seq == 0 and index > 0]
    for end in (*starts, len(seqs)):
        if epoch := seqs[begin:end]:
            missing += max(0, max(epoch) - min(epoch) + 1 - len(epoch))
        begin = end
    return missing


def _count_kinds(marks: Sequence[Mark]) -> dict[str, int]:
    return dict(Counter(mark.kind for mark in marks).most_common(_MAX_KINDS))


def _pick(
    choose_from: Callable[[int, int], int], one: int | None, two: int | None
) -> int | None:
    if one is None or two is None:
        return two if one is None else one
    return choose_from(one, two)
