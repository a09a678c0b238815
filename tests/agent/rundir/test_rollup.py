import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.rundir.events import PhaseChanged, StepDone, encode
from agent.rundir.rollup import (
    Block,
    count_missing,
    encode_block,
    kept_lines,
    merge,
    read_blocks,
    roll_up,
)

CLOCKS = {"mono_ns": 1, "node": "rank-0", "rank": 0}


def steps(*losses: float, first: int = 0) -> bytes:
    return b"".join(
        encode(
            StepDone(
                time_ns=1000 + number, seq=number, step=number, loss=loss, **CLOCKS
            )
        )
        for number, loss in enumerate(losses, start=first)
    )


def read(data: bytes) -> list[Block]:
    return list(read_blocks(io.BytesIO(data)))


def test_a_block_says_what_its_window_held():
    data = b"\n" + steps(3, 1, 2, 2, first=5) + b"nonsense\n"

    head, body = roll_up(data, segment=2, begin=100)

    assert (head.segment, head.begin, head.end) == (2, 100, 100 + len(data))
    assert head.counts == {"step_done": 4}
    assert (head.num_bad, head.num_missing) == (1, 0)
    assert (head.first_seq, head.last_seq) == (5, 8)
    assert (head.min_step, head.max_step) == (5, 8)
    assert (head.min_time_ns, head.max_time_ns) == (1005, 1008)
    assert head.body_bytes == len(body)


def test_kept_lines_are_verbatim_and_know_where_they_were():
    data = steps(3, 1, 2, 2)

    lines = kept_lines(roll_up(data, segment=1, begin=1000))

    assert [line.text for line in lines] == [
        data[line.offset - 1000 :][: len(line.text)] for line in lines
    ]
    assert len(lines) == 3


def test_a_torn_end_counts_as_a_bad_line_and_is_not_kept():
    data = steps(1, 2) + b'{"kind":"step_do'

    head, body = roll_up(data, segment=1, begin=0)

    assert head.num_bad == 1
    assert head.end == len(data)
    assert body == steps(1, 2)


def test_blocks_are_read_back():
    one = roll_up(steps(1, 2, 3), segment=1, begin=0)
    two = roll_up(steps(4, 5), segment=1, begin=one.head.end)

    assert read(encode_block(one) + encode_block(two)) == [one, two]


@settings(deadline=None)
@given(st.integers(0, 2000))
def test_wherever_a_rollup_is_torn_the_blocks_before_are_read(cut):
    blocks = [roll_up(steps(1, 2, 3, first=n), segment=1, begin=n) for n in range(3)]
    data = b"".join(encode_block(block) for block in blocks)
    ends = [sum(len(encode_block(b)) for b in blocks[: n + 1]) for n in range(3)]

    found = read(data[:cut])

    assert found == blocks[: sum(end <= cut for end in ends)]


@pytest.mark.parametrize(
    "bad",
    [
        b"\n",
        b"{}\n",
        b"\xff\xfe\n",
        b"[" * 100_000,
        b'{"kind":"rolled_up","segment":1,"begin":0,"end":9,"body_bytes":-1,"at":[],'
        b'"counts":{}}\n',
        b'{"kind":"rolled_up","segment":1,"begin":0,"end":9,"body_bytes":99999999999,'
        b'"at":[],"counts":{}}\n',
        b'{"kind":"rolled_up","segment":0,"begin":9,"end":9,"body_bytes":0,"at":[],'
        b'"counts":{}}\n',
        b'{"kind":"rolled_up","segment":1,"begin":0,"end":9,"body_bytes":2,"at":[0],'
        b'"counts":{}}\n\n\n',
    ],
)
def test_what_is_not_a_block_ends_the_reading(bad):
    good = encode_block(roll_up(steps(1), segment=1, begin=0))

    assert len(read(good + bad + good)) == 1


@settings(deadline=None)
@given(
    st.lists(st.floats(0, 9), min_size=1, max_size=40),
    st.lists(st.floats(0, 9), min_size=1, max_size=40),
    st.integers(0, 3),
)
def test_two_merged_blocks_say_what_one_of_both_windows_would(one, two, num_lost):
    older = steps(*one)
    newer = steps(*two, first=len(one) + num_lost)

    merged = merge(
        roll_up(older, segment=3, begin=50),
        roll_up(newer, segment=3, begin=50 + len(older)),
    )

    whole = roll_up(older + newer, segment=3, begin=50)
    assert merged.head.num_missing == num_lost
    assert merged == whole


def test_merging_keeps_what_is_rare():
    rare = PhaseChanged(time_ns=5, seq=9, phase="saving", **CLOCKS)
    older = roll_up(steps(1, 2) + encode(rare), segment=1, begin=0)
    newer = roll_up(encode(rare) + steps(1, 2), segment=1, begin=older.head.end)

    merged = merge(older, newer)

    assert merged.body.count(b"phase_changed") == 2
    assert merged.head.counts == {"step_done": 4, "phase_changed": 2}


@pytest.mark.parametrize(
    ("seqs", "missing"),
    [
        ([], 0),
        ([7], 0),
        ([7, 8, 9], 0),
        ([7, 9], 1),
        ([7, 9, 8, 10], 0),
        ([0, 1, 2, 0, 1, 2], 0),
        ([0, 2, 0, 3], 3),
        ([5, 0, 1], 0),
    ],
)
def test_gaps_in_the_sequence_are_counted(seqs, missing):
    assert count_missing(seqs) == missing
