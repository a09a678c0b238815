"""Who is blamed for a collective that nobody wrapped, and who is asked for stacks."""

import msgspec
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
    StacksWritten,
    StepDone,
    decode_lines,
)
from agent.rundir.layout import RunDir, rank_stem
from agent.rundir.process import this_process
from agent.rundir.requests import list_requests
from agent.rundir.stacks import StacksHeader, encode_header, stacks_file

PERIOD_S = 10.0
"""Longer than a test: what is decided here is decided by looks."""
GROUP = "0 default_pg"
WAITS_IN = 4


class Ranks:
    """One of three ranks waits; what the other two say is on disk."""

    def __init__(self, folder, me=0):
        run = self.run = RunDir(folder)
        self.files = [run.telemetry_file(1, rank_stem(rank)) for rank in range(3)]
        self.emitters = [
            Emitter(file, node=f"rank-{rank}", rank=rank)
            for rank, file in enumerate(self.files)
        ]
        self.activity = Activity()
        self.barriers = BarrierProbe(self.emitters[me])
        self.num_samples = 0
        self.progress = 7
        """What the beats of the others count."""
        self.watch = HangWatch(
            HangParts(
                emitter=self.emitters[me],
                activity=self.activity,
                barriers=self.barriers,
                peers=Peers(run, 1, 3, period_s=PERIOD_S),
                host=HostStacks(self.emitters[me], run, 1),
                write_stacks=lambda what: None,
                sample_collectives=self.sample,
            ),
            limit_s=0,
            period_s=PERIOD_S,
        )
        self.activity.enter("training", None)

    def sample(self):
        self.num_samples += 1
        return Collective(GROUP, WAITS_IN, "gloo:all_reduce")

    def say(self, rank, last, *, is_still=True, group=GROUP):
        self.emitters[rank].emit(
            CollectivesSampled,
            group=group,
            first_id=last + 1,
            started_ns=(),
            is_still=is_still,
        )

    def beat(self, *ranks):
        for rank in ranks:
            self.emitters[rank].emit(
                Heartbeat, phase="training", phase_age_ns=1, progress=self.progress
            )

    def look(self, times, *beating):
        for _ in range(times):
            self.beat(*beating)
            self.watch.look()

    def blamed(self):
        if not self.files[0].exists():
            return []
        events = decode_lines(self.files[0].read_bytes())
        return [event.missing for event in events if isinstance(event, HangNamed)]


@pytest.fixture
def ranks(tmp_path):
    return Ranks(tmp_path)


def test_who_was_only_seen_behind_some_time_ago_may_be_there_by_now(ranks):
    ranks.say(1, WAITS_IN - 1, is_still=False)
    ranks.say(2, WAITS_IN)

    ranks.look(12, 1, 2)

    assert ranks.blamed() == []


def test_who_stands_still_behind_the_others_is_blamed_once_it_has_said_so(ranks):
    ranks.say(1, WAITS_IN - 1, is_still=False)
    ranks.say(2, WAITS_IN)
    ranks.look(6, 1, 2)
    ranks.say(1, WAITS_IN - 1)

    ranks.look(3, 1, 2)

    assert ranks.blamed() == [(1,)]


def test_who_is_no_member_of_the_group_is_not_blamed(ranks):
    ranks.say(1, WAITS_IN - 1)
    ranks.say(1, 9, group="1 tensor parallel")
    ranks.say(2, 9, group="2 tensor parallel")

    ranks.look(4, 1, 2)

    assert ranks.blamed() == [(1,)]


def test_what_was_said_before_the_last_step_is_no_reason_for_blame(ranks):
    ranks.say(1, WAITS_IN - 1)
    ranks.emitters[1].emit(StepDone, step=3)
    ranks.say(2, WAITS_IN)

    ranks.look(12, 1, 2)

    assert ranks.blamed() == []


def test_late_beats_are_no_silence(ranks):
    ranks.say(1, WAITS_IN - 1, is_still=False)
    ranks.say(2, WAITS_IN)

    for _ in range(4):
        ranks.look(3, 2)
        ranks.beat(1)

    assert ranks.blamed() == []


def test_who_has_fallen_silent_behind_the_others_is_blamed(ranks):
    ranks.say(1, WAITS_IN - 1, is_still=False)
    ranks.say(2, WAITS_IN)

    ranks.look(8, 2)

    assert ranks.blamed() == [(1,)]


def test_a_rank_that_may_take_its_time_says_where_it_stands_once_all_the_same(ranks):
    ranks.activity.enter("loading", None)

    ranks.look(6, 1, 2)

    assert ranks.num_samples == 1
    assert ranks.blamed() == []


def asked(ranks, me):
    events = decode_lines(ranks.files[me].read_bytes())
    return [event.reason for event in events if isinstance(event, StacksWritten)]


def settle(folder, rank, *, host):
    """Leave what shows where a rank runs; it has no signal to give."""
    path = stacks_file(RunDir(folder), 1, rank_stem(rank))
    path.parent.mkdir(parents=True, exist_ok=True)
    process = msgspec.structs.replace(this_process(), host=host)
    header = StacksHeader(node=f"rank-{rank}", rank=rank, process=process, signum=None)
    path.write_bytes(encode_header(header))


@pytest.fixture
def neighbour(tmp_path):
    """Leave what shows that rank 2 runs on this host."""
    settle(tmp_path, 2, host=this_process().host)


def test_who_does_not_tell_the_hang_asks_its_neighbour_for_stacks_at_every_one(
    tmp_path, neighbour
):
    ranks = Ranks(tmp_path, me=1)

    for name in ("gate-1", "gate-2"):
        ranks.emitters[0].emit(BarrierArrived, name=name, index=0, limit_ns=1)
        with ranks.barriers.barrier(name, limit_ns=1):
            ranks.look(6, 0)
    ranks.look(1)

    found = [reason.split()[0] for reason in asked(ranks, 1)]
    assert found == ["`gate-1`", "`gate-2`"]
    events = decode_lines(ranks.files[1].read_bytes())
    assert not any(isinstance(event, HangNamed) for event in events)


def test_who_has_come_to_another_place_is_asked_again_a_few_times(ranks, neighbour):
    ranks.emitters[1].emit(BarrierArrived, name="gate", index=0, limit_ns=1)
    found = []
    with ranks.barriers.barrier("gate", limit_ns=1):
        for _ in range(6):
            ranks.look(4, 1, 2)
            found.append(len(asked(ranks, 0)))
            ranks.progress += 1

    # The first reason is that rank 0 has written its own.
    assert found == [1, 2, 3, 4, 4, 4]


def test_of_a_host_where_nobody_waits_the_agents_are_asked_once(ranks, tmp_path):
    settle(tmp_path, 0, host="here")
    settle(tmp_path, 1, host="here")
    settle(tmp_path, 2, host="elsewhere")

    with ranks.barriers.barrier("gate", limit_ns=1):
        ranks.look(6, 1, 2)  # ranks 1 and 2 are missing

    [view] = list_requests(ranks.run)
    assert (view.request.kind, view.request.attempt) == ("stacks", 1)
    assert view.request.args == {"ranks": [2]}
