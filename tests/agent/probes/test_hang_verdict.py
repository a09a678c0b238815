"""What is told of a hang: where, who is missing, and what they told last."""

import os

import pytest

from agent.emitter import Emitter
from agent.probes.activity import Activity
from agent.probes.barrier import BarrierProbe
from agent.probes.collectives import Collective
from agent.probes.hang import HangParts, HangWatch
from agent.probes.host_stacks import HostStacks
from agent.probes.peers import Peers
from agent.rundir.events import (
    CollectivesSampled,
    HangNamed,
    Heartbeat,
    StepDone,
    decode_lines,
)
from agent.rundir.layout import RunDir, rank_stem

PERIOD_S = 10.0
"""Nothing here is decided by how quickly it is looked."""


class Watch:
    """Rank 0 of two, as its agent's thread sees it; rank 1 has left telemetry."""

    def __init__(self, folder):
        run = RunDir(folder)
        self.path = run.telemetry_file(1, rank_stem(0))
        self.emitter = Emitter(self.path, node="rank-0", rank=0)
        self.peer = Emitter(run.telemetry_file(1, rank_stem(1)), node="rank-1", rank=1)
        self.barriers = BarrierProbe(self.emitter)
        self.activity = Activity()
        self.collective = None
        parts = HangParts(
            emitter=self.emitter,
            activity=self.activity,
            barriers=self.barriers,
            peers=Peers(run, 1, 2, period_s=PERIOD_S),
            host=HostStacks(self.emitter, run, 1),
            write_stacks=lambda what: None,
            sample_collectives=lambda: self.collective,
        )
        self.hang = HangWatch(parts, limit_s=60, period_s=PERIOD_S)

    def told(self):
        found = decode_lines(self.path.read_bytes())
        return [event for event in found if isinstance(event, HangNamed)]


@pytest.fixture
def watch(tmp_path):
    return Watch(tmp_path)


def test_who_is_missing_at_a_barrier_is_told_with_its_last_words(watch):
    watch.peer.emit(StepDone, step=7)
    beat = {"phase_age_ns": 1, "progress": 3, "waiting_index": 0, "waiting_age_ns": 1}
    watch.peer.emit(
        Heartbeat, phase="loading", step=7, waiting_at="dataset.open", **beat
    )

    for _ in range(2):
        with watch.barriers.barrier("checkpoint.save", limit_ns=1):
            watch.hang.look()
            watch.hang.look()
    watch.hang.look()

    first, cleared, second, over = watch.told()
    assert (first.barrier, first.index, first.group) == ("checkpoint.save", 0, None)
    assert (first.missing, first.limit_ns) == ((1,), 1)
    [seen] = first.last_seen
    assert (seen.rank, seen.phase, seen.step) == (1, "loading", 7)
    assert seen.waiting_at == "dataset.open"
    assert seen.stacks == "stacks/0001/rank-00001.txt"
    assert (second.index, second.missing) == (1, (1,))
    assert [(e.missing, e.last_seen) for e in (cleared, over)] == [((), ())] * 2


def test_a_collective_that_nobody_wrapped_is_told_with_its_group_and_number(watch):
    watch.peer.emit(
        CollectivesSampled, group="0 default_pg", first_id=1, started_ns=(1, 2, 3)
    )
    watch.collective = Collective("0 default_pg", 4, "gloo:all_reduce")
    watch.activity.enter("training", 1)

    # The peer never beats: so many looks until that is silence.
    for _ in range(6):
        watch.hang.look()

    [told] = watch.told()
    assert told.barrier == "gloo:all_reduce 4 of group 0 default_pg"
    assert (told.group, told.index, told.missing) == ("0 default_pg", 4, (1,))
    [seen] = told.last_seen
    assert (seen.rank, seen.phase, seen.step) == (1, None, None)


@pytest.mark.parametrize("num_steps", [0, 1])
def test_who_takes_steps_has_a_limit_also_without_a_phase(watch, num_steps):
    watch.hang = HangWatch(watch.hang._parts, limit_s=0.0, period_s=PERIOD_S)
    watch.collective = Collective("0 default_pg", 4, "gloo:all_reduce")
    for _ in range(num_steps):
        watch.activity.stepped()

    # The peer never beats: so many looks until that is silence.
    for _ in range(6):
        watch.hang.look()

    told = watch.told() if num_steps else watch.path.read_bytes()
    assert len(told) == num_steps  # what starts may take as long as it will


def test_a_log_that_is_no_file_keeps_nobody_from_naming_a_hang(watch):
    watch.peer.close()
    log = watch.path.with_name("rank-00001.jsonl")
    log.unlink()
    os.mkfifo(log)

    with watch.barriers.barrier("join", limit_ns=1):
        watch.hang.look()
        watch.hang.look()

    assert watch.told()[0].missing == (1,)


def test_a_rank_that_never_came_to_life_is_missing_too(watch):
    watch.peer.close()

    with watch.barriers.barrier("join", limit_ns=1):
        watch.hang.look()
        watch.hang.look()

    assert watch.told()[0].last_seen[0].phase is None
