"""Waits inside waits, and what goes through them on its way."""

import contextlib
import threading

import pytest

from agent.emitter import Emitter
from agent.probes.activity import Activity
from agent.probes.barrier import BarrierProbe
from agent.probes.heartbeat import HeartbeatProbe
from agent.rundir.events import BarrierReleased, Heartbeat, decode_lines


class Told:
    """A probe, and what it and its beats wrote."""

    def __init__(self, folder):
        self.path = folder / "rank-00000.jsonl"
        self.emitter = Emitter(self.path, node="rank-0", rank=0)
        self.probe = BarrierProbe(self.emitter)
        self._beat = HeartbeatProbe(self.emitter, Activity(), self.probe)

    def events(self, event_type):
        found = decode_lines(self.path.read_bytes())
        return [event for event in found if isinstance(event, event_type)]

    def beat(self):
        self._beat.look()
        return self.events(Heartbeat)[-1]


@pytest.fixture
def told(tmp_path):
    return Told(tmp_path)


@pytest.mark.parametrize("outer", ["barrier", "wait"])
@pytest.mark.parametrize("inner", ["barrier", "wait"])
def test_when_a_wait_inside_another_is_over_the_beat_tells_the_outer_again(
    told, outer, inner
):
    with getattr(told.probe, outer)("save"):
        before = told.beat()
        for _ in range(2):
            with getattr(told.probe, inner)("verdict"):
                inside = told.beat()
            after = told.beat()
    over = told.beat()

    assert (before.waiting_at, before.waiting_index) == ("save", 0)
    assert (inside.waiting_at, inside.waiting_index) == ("verdict", 1)
    assert [(one.name, one.index) for one in inside.waits] == [
        ("save", 0),
        ("verdict", 1),
    ]
    assert inside.waits[0].age_ns > inside.waits[1].age_ns == inside.waiting_age_ns
    assert (after.waiting_at, after.waiting_index) == ("save", 0)
    assert after.waiting_age_ns > before.waiting_age_ns
    assert over.waiting_at is None
    assert not over.waits


def test_beats_tell_how_long_the_trainer_lets_a_wait_last(told):
    with told.probe.barrier("save", limit_ns=7), told.probe.wait("verdict"):
        assert [one.limit_ns for one in told.beat().waits] == [7, None]


def test_of_many_waits_a_beat_tells_the_innermost(told):
    with contextlib.ExitStack() as stack:
        for number in range(20):
            stack.enter_context(told.probe.wait(f"wait-{number}"))
        beat = told.beat()

    assert [one.name for one in beat.waits] == [f"wait-{n}" for n in range(4, 20)]
    assert beat.waiting_at == "wait-19"


def test_a_wait_inside_that_fails_leaves_the_outer_one_told(told):
    with told.probe.barrier("save"):
        with pytest.raises(TimeoutError), told.probe.barrier("verdict"):
            raise TimeoutError
        assert told.beat().waiting_at == "save"


def test_waits_of_two_threads_need_not_end_in_the_order_they_began(told):
    has_begun, may_end = threading.Event(), threading.Event()

    def save():
        with told.probe.barrier("save"):
            has_begun.set()
            may_end.wait()

    thread = threading.Thread(target=save, daemon=True)
    with told.probe.wait("step"):
        thread.start()
        has_begun.wait()
    assert told.beat().waiting_at == "save"
    may_end.set()
    thread.join()

    assert told.beat().waiting_at is None


class UnspeakableError(Exception):
    def __str__(self):
        raise RuntimeError("it cannot even be told")


def test_an_exception_that_cannot_be_told_goes_on_its_way(told):
    with pytest.raises(UnspeakableError), told.probe.barrier("save"):
        raise UnspeakableError

    [released] = told.events(BarrierReleased)
    assert released.error == "UnspeakableError: it cannot say what"


def test_pages_of_an_exception_are_told_in_part(told):
    with pytest.raises(ValueError, match="xxx"), told.probe.barrier("save"):
        raise ValueError("x" * 1_000_000)

    [released] = told.events(BarrierReleased)
    assert released.error.startswith("ValueError: xxx")
    assert len(released.error) == 2_000
