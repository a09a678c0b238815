import collections
import json
import math
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from agent.emitter import Emitter
from agent.probes import collectives
from agent.probes.activity import Activity
from agent.probes.collectives import CollectivesProbe
from agent.rundir.events import CollectivesSampled, decode_lines

ROOT = Path(__file__).parent.parent.parent.parent


class Recorded:
    """A probe and what it wrote."""

    def __init__(self, folder):
        self.path = folder / "rank-00000.jsonl"
        self.activity = Activity()
        self.probe = CollectivesProbe(
            Emitter(self.path, node="rank-0", rank=0), self.activity
        )

    def samples(self):
        found = decode_lines(self.path.read_bytes())
        return [e for e in found if isinstance(e, CollectivesSampled)]


@pytest.fixture
def recorded(tmp_path):
    return Recorded(tmp_path)


@pytest.fixture
def group(tmp_path):
    """Be alone in a real process group."""
    store = f"file://{tmp_path}/store"
    dist.init_process_group("gloo", init_method=store, rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def reduce(times):
    for _ in range(times):
        dist.all_reduce(torch.ones(1))


def test_each_start_is_told_once_with_its_number(recorded, group):
    reduce(5)
    last = recorded.probe.sample()
    reduce(3)
    recorded.probe.sample()

    first, second = recorded.samples()[-2:]
    assert (first.group, second.group) == ("0 default_pg", "0 default_pg")
    assert first.first_id + len(first.started_ns) == second.first_id
    assert len(second.started_ns) == 3
    assert list(second.started_ns) == sorted(second.started_ns)
    assert first.started_ns[-1] < second.started_ns[0]
    assert (last.group, last.id) == (first.group, second.first_id - 1)
    assert last.name == "gloo:all_reduce"


def test_a_group_that_was_made_again_is_told_from_its_first_collective(
    recorded, tmp_path
):
    last = None
    for num, name in ((7, "one"), (3, "two")):
        store = f"file://{tmp_path}/{name}"
        dist.init_process_group("gloo", init_method=store, rank=0, world_size=1)
        reduce(num)
        last = recorded.probe.sample()
        dist.destroy_process_group()

    first, second = recorded.samples()
    assert first.group == second.group == "0 default_pg"
    assert len(second.started_ns) == 3
    assert second.first_id == 1
    assert min(second.started_ns) > max(first.started_ns)
    assert (last.group, last.id) == (second.group, 3)


def test_of_groups_without_end_only_those_in_the_ring_are_kept(recorded, monkeypatch):
    ring = collections.deque(maxlen=10)
    monkeypatch.setattr(collectives, "_is_recording", lambda: True)
    monkeypatch.setattr(
        collectives,
        "_dump_functions",
        lambda: [lambda: json.dumps({"entries": list(ring)})],
    )

    for number in range(100):
        ring.append(
            {
                "process_group": [str(number), "made anew"],
                "collective_seq_id": 1,
                "time_created_ns": number + 1,
            }
        )
        recorded.probe.sample(is_still=True)

    newest = {f"{number} made anew" for number in range(90, 100)}
    assert set(recorded.probe._told_ids) == newest
    assert set(recorded.probe._still_told) <= newest
    assert len(recorded.samples()) == 100


def test_nothing_new_is_no_event(recorded, group):
    reduce(2)
    recorded.probe.sample()
    num_samples = len(recorded.samples())

    recorded.probe.sample()

    assert len(recorded.samples()) == num_samples


def test_a_thread_that_stands_still_says_so_once_though_nothing_is_new(recorded, group):
    reduce(2)
    recorded.probe.sample()
    for _ in range(3):
        recorded.probe.sample(is_still=True)
    *_, new, still = recorded.samples()
    num_samples = len(recorded.samples())
    recorded.activity.progress += 1
    recorded.probe.sample(is_still=True)

    assert (new.is_still, still.is_still) == (False, True)
    assert still.first_id == new.first_id + len(new.started_ns)
    assert still.started_ns == ()
    assert len(recorded.samples()) == num_samples + 1


def test_it_looks_often_at_first_and_rarely_then(recorded, group, monkeypatch):
    # What a sample costs goes with all that the ring holds, of other tests too.
    monkeypatch.setattr(collectives, "_BUDGET_S", math.inf)
    recorded.probe._budget_s = math.inf
    sampled_at = []
    for step in range(1, 400):
        reduce(1)
        recorded.activity.num_steps = step
        before = len(recorded.samples()) if recorded.path.exists() else 0
        recorded.probe.look()
        if len(recorded.samples()) > before:
            sampled_at.append(step)

    assert sampled_at == [*range(6, 61, 6), 260]


def test_what_costs_too_much_waits(recorded, group):
    reduce(1)
    recorded.probe.sample()
    recorded.probe._budget_s = -1_000.0
    recorded.activity.num_steps = 10_000
    reduce(1)
    num_samples = len(recorded.samples())

    recorded.probe.look()

    assert len(recorded.samples()) == num_samples


def test_a_long_hang_leaves_no_debt_for_hours(recorded, group):
    reduce(1)
    recorded.probe._budget_s = -1_000.0

    recorded.probe.sample(is_still=True)

    assert recorded.probe._budget_s >= -collectives._BUDGET_S


def test_without_a_group_there_is_nothing_to_tell_yet(recorded):
    assert recorded.probe.sample() is None
    assert recorded.probe.absence is None
    assert not recorded.path.exists() or recorded.samples() == []


def test_what_nccl_records_for_itself_is_told_beside_gloo(recorded, group, monkeypatch):
    # Without a GPU there is no NCCL; its ring has the same form, and its own count.
    c10d = sys.modules["torch._C._distributed_c10d"]
    reduce(3)
    mine = json.loads(c10d._dump_fr_trace_json())["entries"]
    entries = [
        entry
        | {
            "collective_seq_id": number,
            "profiling_name": "nccl:all_gather",
            "time_discovered_started_ns": entry["time_created_ns"] + 5,
            "time_created_ns": entry["time_created_ns"] + 1,
        }
        for number, entry in enumerate(mine[-3:], 70)
    ]
    ring = json.dumps({"entries": entries, "version": "2.10"}).encode()
    monkeypatch.setattr(c10d, "_dump_nccl_trace_json", lambda: ring, raising=False)

    last = recorded.probe.sample()

    told = {event.group: event for event in recorded.samples()}
    assert told.keys() >= {"0 default_pg", "0 default_pg (nccl)"}
    of_nccl = told["0 default_pg (nccl)"]
    assert of_nccl.first_id == 70
    assert of_nccl.started_ns == tuple(e["time_created_ns"] + 4 for e in entries)
    assert last == ("0 default_pg (nccl)", 72, "nccl:all_gather")


def test_that_nothing_is_recorded_is_said_once(recorded, group, monkeypatch):
    c10d = sys.modules["torch._C._distributed_c10d"]
    monkeypatch.setattr(c10d, "_dump_fr_trace_json", lambda: '{"entries": []}')

    for num_steps in (6, 60, 260, 460):
        recorded.activity.num_steps = num_steps
        recorded.probe.sample()

    (event,) = recorded.samples()
    assert event.unavailable == "torch has recorded none in 60 steps"


def test_of_many_groups_the_latest_are_told(recorded, group):
    for _ in range(12):
        dist.all_reduce(torch.ones(1), group=dist.new_group([0]))
    reduce(1)

    recorded.probe.sample()

    groups = [event.group for event in recorded.samples()]
    assert len(groups) == 8
    assert "0 default_pg" in groups


@pytest.mark.parametrize(
    "name", ["TORCH_FR_BUFFER_SIZE", "TORCH_NCCL_TRACE_BUFFER_SIZE"]
)
def test_that_it_is_switched_off_is_said_once(recorded, monkeypatch, name):
    monkeypatch.setenv(name, "0")

    recorded.activity.num_steps = 10_000
    recorded.probe.look()
    recorded.probe.look()

    (event,) = recorded.samples()
    assert (event.group, event.started_ns) == ("", ())
    assert event.unavailable == f"{name} is 0"
    assert event.started_ns == ()


def test_that_this_torch_has_no_recorder_is_said(recorded, group, monkeypatch):
    c10d = sys.modules["torch._C._distributed_c10d"]
    monkeypatch.delattr(c10d, "_dump_fr_trace_json")

    recorded.probe.sample()

    assert "has no Flight Recorder" in recorded.samples()[0].unavailable


def test_a_process_without_torch_does_not_load_it(tmp_path):
    script = f"""
        import sys
        from pathlib import Path
        from agent.emitter import Emitter
        from agent.probes.activity import Activity
        from agent.probes.collectives import CollectivesProbe
        path = Path({str(tmp_path)!r}) / "rank-00000.jsonl"
        probe = CollectivesProbe(Emitter(path, node="x", rank=0), Activity())
        probe.sample()
        print(probe.absence, "torch" in sys.modules)
    """
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )

    assert result.stdout == "this process does not use torch False\n"
