import os
import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.rundir.events import (
    CheckpointPublished,
    Event,
    Heartbeat,
    RunStarted,
    StepDone,
    decode_lines,
    encode,
)
from agent.rundir.history import History, Position
from agent.rundir.layout import RunDir, is_safe_node, parse_telemetry_name
from agent.rundir.stretches import Span, Stretch
from agent.rundir.tail import Tail
from agent.rundir.windows import WINDOW_BYTES
from agent.writing.rollups import RollupWriter

STEM = "rank-00003"
TIME_NS = 1_790_000_000_000_000_000


def made_up_events(num: int, *, seed: int = 1) -> list[Event]:
    """Steps, beats, a checkpoint now and then; a second each."""
    rng = random.Random(seed)
    events: list[Event] = []
    for seq in range(num):
        common = {
            "time_ns": TIME_NS + seq * 10**9,
            "mono_ns": seq * 10**9,
            "node": "rank-3",
            "rank": 3,
            "seq": seq,
            "step": seq // 2,
        }
        if seq % 1999 == 1998:
            published = {"checkpoint": f"step-{seq}", "digest": "d", "size_bytes": 1}
            events.append(CheckpointPublished(**published, **common))
        elif seq % 7 == 6:
            beat = {"phase": "training", "phase_age_ns": seq, "progress": seq}
            events.append(Heartbeat(**beat, **common))
        else:
            events.append(StepDone(loss=rng.random(), **common))
    return events


def write_log(run: RunDir, events: list[Event], num_segments: int) -> None:
    size = -(-len(events) // num_segments)
    for segment in range(1, num_segments + 1):
        path = run.telemetry_file(1, STEM, segment)
        path.parent.mkdir(parents=True, exist_ok=True)
        mine = events[(segment - 1) * size : segment * size]
        path.write_bytes(b"".join(encode(event) for event in mine))


def roll_up(run: RunDir, num_segments: int) -> None:
    RollupWriter(run.telemetry_file(1, STEM).parent, STEM).advance(num_segments)


@pytest.fixture(scope="module")
def events():
    return made_up_events(20_000)


@pytest.fixture(params=[1, 3], scope="module")
def run(request, events, tmp_path_factory):
    """A log of ten windows in one segment or three, rolled up."""
    found = RunDir(tmp_path_factory.mktemp("run"))
    write_log(found, events, request.param)
    roll_up(found, request.param)
    return found


def read_on(run: RunDir, position: Position) -> list:
    tail = Tail(run.telemetry_file(1, STEM, position.segment), position.offset)
    return decode_lines(tail.read())


def events_of(stretches: list[Stretch]) -> list:
    return [event for stretch in stretches for event in stretch.events]


def test_the_past_is_thinned_and_goes_over_into_the_log(run, events):
    history = History(run, 1, STEM)

    past = list(history.thinned())
    rest = read_on(run, history.position)

    assert sum(sum(s.counts.values()) for s in past) + len(rest) == len(events)
    assert events[-len(rest) :] == rest
    assert 0 < len(rest) * 130 < WINDOW_BYTES * 1.2
    assert all(s.is_thinned for s in past)
    kept = events_of(past)
    assert len(kept) < 0.01 * len(events)
    assert sorted(e.seq for e in kept) == [e.seq for e in kept]


def test_what_is_rare_is_all_there(run, events):
    history = History(run, 1, STEM)

    found = events_of(list(history.thinned())) + read_on(run, history.position)

    rare = [e for e in events if isinstance(e, CheckpointPublished)]
    assert [e for e in found if isinstance(e, CheckpointPublished)] == rare
    assert len(rare) == 10


def test_every_event_that_was_kept_is_where_it_says(run):
    for stretch in History(run, 1, STEM).thinned():
        data = run.telemetry_file(1, STEM, stretch.segment).read_bytes()
        for event, offset in zip(stretch.events, stretch.offsets, strict=True):
            assert encode(event) == data[offset:].partition(b"\n")[0] + b"\n"
            assert stretch.begin <= offset < stretch.end


def test_the_newest_events_are_read_without_the_rest(run, events):
    found = History(run, 1, STEM).newest(5000)

    assert list(found.events) == events[-len(found.events) :]
    assert 4500 < found.end - found.begin <= 5000
    assert not found.is_thinned


def test_the_newest_of_a_short_or_missing_log_is_all_there_is(tmp_path):
    run = RunDir(tmp_path)
    assert History(run, 1, STEM).newest() is None
    assert list(History(run, 1, STEM).thinned()) == []

    write_log(run, made_up_events(3), 1)
    run.telemetry_file(1, STEM, 2).write_bytes(b'{"kind":')

    assert len(History(run, 1, STEM).newest().events) == 3


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(first=st.integers(-5, 10_100), length=st.integers(0, 3000))
def test_a_window_of_steps_is_exact(run, events, first, length):
    span = Span(first, first + length)

    found = events_of(list(History(run, 1, STEM).window(steps=span)))

    assert found == [e for e in events if first <= e.step <= first + length]


def test_a_window_of_time_is_exact_and_may_be_open(run, events):
    since = TIME_NS + 15_000 * 10**9

    found = list(History(run, 1, STEM).window(time_ns=Span(first=since)))

    assert events_of(found) == events[15_000:]
    assert not any(s.is_thinned for s in found)


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(keep=st.integers(0, 12_000))
def test_a_torn_or_missing_rollup_changes_nothing_but_the_time(
    tmp_path_factory, run, events, keep
):
    torn = RunDir(tmp_path_factory.mktemp("torn"))
    folder = torn.telemetry_file(1, STEM).parent
    folder.mkdir(parents=True)
    for path in run.telemetry_file(1, STEM).parent.iterdir():
        os.link(path, folder / path.name)
    whole = run.rollup_file(1, STEM).read_bytes()
    torn.rollup_file(1, STEM).unlink()
    torn.rollup_file(1, STEM).write_bytes(whole[:keep])

    sound, found = History(run, 1, STEM), History(torn, 1, STEM)

    assert list(found.thinned()) == list(sound.thinned())
    assert found.position == sound.position
    span = Span(2000, 4000)
    assert events_of(list(found.window(steps=span))) == events_of(
        list(sound.window(steps=span))
    )


def test_blocks_of_no_sense_are_passed_over(tmp_path, events):
    run = RunDir(tmp_path)
    write_log(run, events, 1)
    roll_up(run, 1)
    path = run.rollup_file(1, STEM)
    path.write_bytes(path.read_bytes() * 2)

    history = History(run, 1, STEM)

    total = sum(sum(s.counts.values()) for s in history.thinned())
    assert total + len(read_on(run, history.position)) == len(events)


def test_lines_that_came_late_to_a_finished_segment_are_found(tmp_path, events):
    run = RunDir(tmp_path)
    write_log(run, events, 2)
    roll_up(run, 2)
    late = encode(StepDone(time_ns=1, mono_ns=1, node="rank-3", step=77_777))
    with run.telemetry_file(1, STEM, 1).open("ab") as file:
        file.write(late)

    found = History(run, 1, STEM)

    assert 77_777 in [e.step for e in events_of(list(found.thinned()))]
    [only] = found.window(steps=Span(77_777, 77_777))
    assert only.segment == 1


def test_a_segment_that_somebody_removed_is_told_from_its_rollup(tmp_path, events):
    run = RunDir(tmp_path)
    write_log(run, events, 2)
    roll_up(run, 2)
    run.telemetry_file(1, STEM, 1).unlink()

    history = History(run, 1, STEM)
    past = list(history.thinned())
    window = list(history.window(steps=Span(0, 2000)))

    assert {s.segment for s in past} == {1, 2}
    assert history.position.segment == 2
    assert window
    assert all(s.is_thinned for s in window)
    assert {s.segment for s in window} == {1}


def test_events_that_were_lost_between_windows_are_counted(tmp_path, events):
    run = RunDir(tmp_path)
    write_log(run, events[:7000] + events[7013:12_000] + events[12_001:], 1)
    roll_up(run, 1)

    past = list(History(run, 1, STEM).thinned())

    assert sum(s.num_missing for s in past) == 14


def test_events_that_were_lost_just_between_two_windows_are_counted(tmp_path, events):
    run = RunDir(tmp_path)
    write_log(run, events, 1)
    roll_up(run, 1)
    [boundary] = [s.end for s in History(run, 1, STEM).thinned()][:1]
    data = run.telemetry_file(1, STEM).read_bytes()
    after = data.index(b"\n", boundary) + 1
    run.telemetry_file(1, STEM).write_bytes(data[:boundary] + data[after:])
    run.rollup_file(1, STEM).unlink()

    past = list(History(run, 1, STEM).thinned())

    assert [s.num_missing for s in past[:3]] == [0, 1, 0]


def test_a_segment_that_has_just_begun_is_where_to_read_on(tmp_path, events):
    run = RunDir(tmp_path)
    write_log(run, events, 1)
    run.telemetry_file(1, STEM, 2).write_bytes(encode(events[0]))
    roll_up(run, 2)

    history = History(run, 1, STEM)
    past = list(history.thinned())

    assert sum(sum(s.counts.values()) for s in past) == len(events)
    assert history.position == (2, 0)


def test_two_objects_on_one_line_are_one_bad_line(tmp_path, events):
    run = RunDir(tmp_path)
    write_log(run, events[:2], 1)
    one, two = run.telemetry_file(1, STEM).read_bytes().splitlines()
    data = one + two + b"\n" + one + b"\n"
    run.telemetry_file(1, STEM).write_bytes(data)

    found = History(run, 1, STEM).newest()

    assert found.num_bad == 1
    assert found.events[1] == events[0]
    assert found.offsets == (0, len(one + two) + 1)


def test_a_process_that_began_anew_has_lost_nothing(tmp_path, events):
    run = RunDir(tmp_path)
    clocks = {"time_ns": 1, "mono_ns": 1, "node": "rank-3"}
    process = {"host": "h", "boot_id": "b", "pid": 1, "pid_start": 1}
    start = RunStarted(
        schema=1, run_id="r", attempt=1, run_kind="ddp", **clocks, **process
    )
    write_log(run, [*events[:9000], start, *events[1:9000]], 1)
    roll_up(run, 1)

    past = list(History(run, 1, STEM).thinned())

    assert sum(s.num_missing for s in past) == 0
    assert sum(isinstance(e, RunStarted) for e in events_of(past)) == 1


@pytest.mark.parametrize(
    "put", [os.mkfifo, lambda path: path.symlink_to("/etc/passwd")]
)
def test_what_is_no_plain_file_is_never_waited_for(tmp_path, put, events):
    run = RunDir(tmp_path)
    write_log(run, events, 1)
    put(run.rollup_file(1, STEM))
    assert len(list(History(run, 1, STEM).thinned())) > 5

    run.telemetry_file(1, STEM).rename(tmp_path / "away")
    put(run.telemetry_file(1, STEM, 2))

    with pytest.raises(OSError, match=r"plain file|symbolic links"):
        History(run, 1, STEM).newest()


def test_a_rollup_is_not_telemetry_and_no_client_may_pose_as_one():
    name = RunDir(Path("run")).rollup_file(1, STEM).name

    assert parse_telemetry_name(name) is None
    assert parse_telemetry_name("rank-00003.s0002.jsonl") == (STEM, 2)
    assert not is_safe_node("client.rollup")
    assert not is_safe_node("client.s0002")
    assert is_safe_node("client.s2")
