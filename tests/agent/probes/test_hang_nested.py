"""Which of several waits inside each other is named, and who is missing there."""

import contextlib

import pytest

from agent.emitter import Emitter
from agent.probes.activity import Activity
from agent.probes.barrier import BarrierProbe
from agent.probes.collectives import Collective
from agent.probes.hang import HangParts, HangWatch
from agent.probes.host_stacks import HostStacks
from agent.probes.peers import Peers
from agent.rundir.events import (
    BarrierArrived,
    CollectivesSampled,
    HangNamed,
    Heartbeat,
    LastingWait,
    RunEnded,
    decode_lines,
)
from agent.rundir.layout import RunDir, rank_stem

LONG = 10**15
AT_ONCE = 1
GROUP = "0 default_pg"


class Watch:
    """Rank 0 of three, as its agent's thread sees it; the others leave telemetry."""

    def __init__(self, folder, *, period_s=0.0):
        run = RunDir(folder)
        self.path = run.telemetry_file(1, rank_stem(0))
        self.emitters = [
            Emitter(
                run.telemetry_file(1, rank_stem(rank)), node=f"rank-{rank}", rank=rank
            )
            for rank in range(3)
        ]
        self.barriers = BarrierProbe(self.emitters[0])
        self.collective = None
        parts = HangParts(
            emitter=self.emitters[0],
            activity=Activity(),
            barriers=self.barriers,
            peers=Peers(run, 1, 3, period_s=10.0),
            host=HostStacks(self.emitters[0], run, 1),
            write_stacks=lambda what: None,
            sample_collectives=lambda: self.collective,
        )
        self.hang = HangWatch(parts, limit_s=60, period_s=period_s)

    def arrive(self, rank, *names):
        """Let a rank come to these waits, each inside the one before."""
        for name in names:
            self.emitters[rank].emit(BarrierArrived, name=name, index=0)
            self.beat(rank, name)

    def beat(self, rank, name):
        self.emitters[rank].emit(
            Heartbeat,
            phase="saving",
            phase_age_ns=1,
            progress=3,
            waiting_at=name,
            waiting_index=0,
        )

    def look(self, times=2):
        for _ in range(times):
            self.hang.look()

    def told(self):
        """Return where and who, of all that was told."""
        found = decode_lines(self.path.read_bytes())
        return [(e.barrier, e.missing) for e in found if isinstance(e, HangNamed)]


@pytest.fixture
def watch(tmp_path):
    return Watch(tmp_path)


@contextlib.contextmanager
def both(watch, outer_ns, inner_ns):
    with (
        watch.barriers.barrier("save", limit_ns=outer_ns),
        watch.barriers.wait("verdict", limit_ns=inner_ns),
    ):
        yield


def test_who_came_to_the_outer_wait_and_not_to_the_inner_is_missing_there(watch):
    watch.arrive(1, "save", "verdict")
    watch.arrive(2, "save")

    with both(watch, AT_ONCE, None):
        watch.look()
    watch.look()

    assert watch.told() == [("verdict", (2,)), ("verdict", ())]


@pytest.mark.parametrize("inner_ns", [None, AT_ONCE, LONG])
def test_who_did_not_come_to_the_outer_wait_is_missing_there_alone(watch, inner_ns):
    watch.arrive(1, "save")

    with both(watch, AT_ONCE, inner_ns):
        watch.look()
    watch.look()

    assert watch.told() == [("save", (2,)), ("save", ())]


def test_who_has_come_to_the_outer_wait_is_missing_at_the_inner_one_from_then_on(watch):
    watch.arrive(1, "save", "verdict")

    with both(watch, AT_ONCE, None):
        watch.look()
        watch.arrive(2, "save")
        watch.look()

    assert watch.told() == [("save", (2,)), ("save", ()), ("verdict", (2,))]


@pytest.mark.parametrize("outer_ns", [None, LONG])
def test_the_inner_wait_is_named_while_the_outer_one_may_last(watch, outer_ns):
    watch.arrive(1, "save", "verdict")

    with both(watch, outer_ns, AT_ONCE):
        watch.look()

    assert watch.told() == [("verdict", (2,))]


def test_an_outer_wait_without_a_limit_may_last_as_long_as_the_inner_one(watch):
    watch.hang = HangWatch(watch.hang._parts, limit_s=0.0, period_s=0.0)

    with both(watch, None, LONG):
        watch.look()
    assert not watch.told()


def test_a_hang_of_the_outer_wait_is_named_when_the_inner_one_was_given_up(watch):
    watch.arrive(1, "save", "verdict")

    with watch.barriers.barrier("save", limit_ns=LONG):
        with watch.barriers.barrier("verdict", limit_ns=AT_ONCE):
            watch.look()
        watch.look()
    with watch.barriers.barrier("load", limit_ns=AT_ONCE):
        watch.look()

    assert watch.told() == [("verdict", (2,)), ("verdict", ()), ("load", (1, 2))]


def test_what_was_named_inside_is_told_to_be_over_before_the_outer_is_named(watch):
    watch.arrive(1, "save")

    with both(watch, LONG, AT_ONCE):
        watch.look()
        [outer, _inner] = watch.barriers.open
        object.__setattr__(outer, "limit_ns", AT_ONCE)  # as if it were later
        watch.look()

    assert watch.told() == [
        ("verdict", (1, 2)),
        ("verdict", ()),
        ("save", (2,)),
    ]


def test_short_waits_inside_a_long_one_are_no_hang(tmp_path):
    watch = Watch(tmp_path, period_s=10.0)
    watch.arrive(1, "epoch")
    watch.arrive(2, "epoch")

    with watch.barriers.wait("epoch", limit_ns=AT_ONCE):
        for _ in range(5):
            with watch.barriers.wait("step"):
                watch.look()

    assert not watch.told()


def test_who_came_long_ago_and_waits_further_inside_has_come(watch):
    with both(watch, AT_ONCE, LONG):
        for rank in (1, 2):
            watch.arrive(rank, "save", "verdict")
            for _ in range(1_500):
                watch.beat(rank, "verdict")
        assert watch.path.with_name("rank-00001.jsonl").stat().st_size > 200_000
        watch.look()

    assert not watch.told()


def test_who_came_long_ago_is_known_by_beats_that_tell_all_waits(watch):
    outer, inner = LastingWait("save", 0, 1), LastingWait("verdict", 0, 1)
    for rank in (1, 2):
        watch.emitters[rank].emit(
            Heartbeat, phase="saving", phase_age_ns=1, progress=3, waits=(outer, inner)
        )

    with both(watch, AT_ONCE, AT_ONCE):
        watch.look()

    assert not watch.told()


def test_who_told_one_very_long_line_last_has_come_all_the_same(watch):
    for rank in (1, 2):
        watch.arrive(rank, "save")
        watch.emitters[rank].emit(RunEnded, reason="x" * 500_000)

    with watch.barriers.barrier("save", limit_ns=AT_ONCE):
        watch.look()

    assert watch.path.read_bytes()
    assert not watch.told()


def sample(watch, rank, last):
    watch.emitters[rank].emit(
        CollectivesSampled,
        group=GROUP,
        first_id=last + 1,
        started_ns=(),
        is_still=True,
    )


def test_where_all_came_to_the_barrier_the_collective_inside_is_named(watch):
    watch.collective = Collective(GROUP, 4, "gloo:all_reduce")
    for rank in (1, 2):
        watch.arrive(rank, "save")
    sample(watch, 1, 4)
    sample(watch, 2, 3)

    with watch.barriers.barrier("save", limit_ns=AT_ONCE):
        watch.look(3)
    watch.look()

    name = f"gloo:all_reduce 4 of group {GROUP}"
    assert watch.told() == [(name, (2,)), (name, ())]


def test_collectives_that_go_on_inside_a_barrier_are_no_hang(tmp_path):
    watch = Watch(tmp_path, period_s=10.0)
    for rank in (1, 2):
        watch.arrive(rank, "save")
        sample(watch, rank, 3)

    with watch.barriers.barrier("save", limit_ns=AT_ONCE):
        for number in range(4, 9):
            watch.collective = Collective(GROUP, number, "gloo:all_reduce")
            watch.look()

    assert not watch.told()
