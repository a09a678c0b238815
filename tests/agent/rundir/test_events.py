import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.rundir.events import (
    KINDS,
    AnyEvent,
    BarrierReleased,
    StepDone,
    Undecodable,
    Wait,
    decode,
    decode_lines,
    encode,
    kind,
)

COMMON = {"time_ns": 1, "mono_ns": 2, "node": "rank-0"}


@given(
    step=st.none() | st.integers(0, 2**53),
    loss=st.none() | st.floats(allow_nan=False, allow_infinity=False),
    name=st.text(),
    wait_ns=st.integers(0, 2**62),
)
def test_what_is_written_is_what_is_read(step, loss, name, wait_ns):
    waits = (Wait(name, 1, wait_ns, wait_ns),)
    event = StepDone(**COMMON, step=step, loss=loss, waits=waits)

    line = encode(event)

    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert decode(line) == event


def test_every_kind_has_its_own_name_and_a_docstring():
    members = AnyEvent.__args__

    assert len(KINDS) == len(members)
    assert all(member.__doc__ for member in members)


def test_an_event_of_a_newer_kind_is_told_from_a_torn_line():
    newer = decode(b'{"kind":"teleported","time_ns":1,"mono_ns":1,"node":"x"}')
    torn = decode(b'{"kind":"step_done","time_ns":1')

    assert isinstance(newer, Undecodable)
    assert newer.is_newer_kind
    assert isinstance(torn, Undecodable)
    assert not torn.is_newer_kind


def test_a_field_of_a_newer_version_is_ignored():
    line = json.dumps({"kind": "step_done", **COMMON, "loss": 1.0, "mood": "good"})

    assert decode(line.encode()) == StepDone(**COMMON, loss=1.0)


def test_one_bad_line_does_not_hide_its_neighbours():
    good = encode(BarrierReleased(**COMMON, name="x", index=0, wait_ns=5))
    data = good + b"\xff\xfe not json\n" + good + b"[" * 100_000 + b"\n" + good

    found = decode_lines(data)

    assert [isinstance(e, Undecodable) for e in found] == [
        False,
        True,
        False,
        True,
        False,
    ]
    assert kind(found[0]) == "barrier_released"


@pytest.mark.parametrize(
    "line",
    [
        b'{"kind":"step_done","time_ns":1e400,"mono_ns":1,"node":"x"}',
        b'{"kind":"step_done","time_ns":NaN,"mono_ns":1,"node":"x"}',
        b'{"kind":null}',
        b"null",
        b'"text"',
        b"\x00",
    ],
)
def test_nonsense_is_undecodable_and_never_raises(line):
    assert isinstance(decode(line), Undecodable)


@given(st.binary(max_size=200))
def test_no_bytes_make_the_reader_raise(data):
    for event in decode_lines(data):
        assert event is not None
