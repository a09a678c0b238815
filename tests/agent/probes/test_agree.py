"""Two real ranks that agree on requests through gloo."""

import json
import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from agent.probes import agree as agreeing
from agent.probes.agree import agree, pass_barrier, share
from agent.rundir.events import (
    BarrierArrived,
    BarrierReleased,
    RequestAcked,
    RequestDone,
    decode_lines,
)
from agent.rundir.layout import RunDir
from agent.rundir.requests import read_accepted, read_outcome, write_request
from agent.session import Agent

ROOT = Path(__file__).parent.parent.parent.parent

WORKER = """
    import os, sys, time
    from pathlib import Path
    import torch
    import torch.distributed as dist
    from agent.probes.agree import agree, pass_barrier
    from agent.rundir.layout import RunDir
    from agent.session import Agent

    folder, rank = Path(sys.argv[1]), int(os.environ["RANK"])
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2
    )
    with Agent.attach(folder / "run", heartbeat_s=0.05) as agent:
        agent.accept("checkpoint-now", "pause", "stop")
        if rank == 0:
            agent.accept("pin")  # rank 1 cannot
        step, done, has_stopped = 0, [], False
        while not has_stopped:
            step += 1
            dist.all_reduce(torch.ones(1))
            agent.step_done(step)
            request = agree(agent, step, every=5)
            if request is None:
                continue
            done.append((step, request.id))
            has_stopped = request.kind == "stop"
            try:
                with agent.obeying(request):
                    if request.kind == "pause":
                        raise RuntimeError("no brakes")
            except RuntimeError:
                pass
        pass_barrier(agent, "all.done", limit_s=60)
        print(repr(done).replace("'", '"').replace("(", "[").replace(")", "]"))
    dist.destroy_process_group()
"""


@pytest.fixture
def job(tmp_path):
    """Return two ranks that step until they are asked to stop, and their run."""
    environment = os.environ | {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "3",
        "WORLD_SIZE": "2",
        "OMP_NUM_THREADS": "1",
    }
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(WORKER), str(tmp_path)],
            cwd=ROOT,
            env=environment | {"RANK": str(rank)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    yield ranks, RunDir(tmp_path / "run")
    for rank in ranks:
        rank.kill()
        rank.wait()
        rank.stdout.close()


def kinds_taken(run):
    accepted = read_accepted(run)
    return accepted.kinds if accepted else ()


def events(run, rank, event_type):
    data = run.telemetry_file(1, f"rank-{rank:05d}").read_bytes()
    return [e for e in decode_lines(data) if isinstance(e, event_type)]


@pytest.mark.dist
@pytest.mark.slow
def test_all_ranks_carry_out_the_same_requests_at_the_same_steps(job):
    ranks, run = job
    while "pin" not in kinds_taken(run):
        assert all(rank.poll() is None for rank in ranks)
        time.sleep(0.01)

    # Two at once, one that fails, one that a rank cannot do, and the last.
    save = [write_request(run, "checkpoint-now", attempt=1) for _ in range(2)]
    fail = write_request(run, "pause", attempt=1)
    pin = write_request(run, "pin", {"checkpoint": "step-00000001"}, attempt=1)
    stop = write_request(run, "stop", attempt=1)
    told = [json.loads(rank.communicate()[0]) for rank in ranks]

    assert [rank.returncode for rank in ranks] == [0, 0]
    assert told[0] == told[1]
    assert [request for _, request in told[0]] == [*save, fail, stop]
    assert all(step % 5 == 0 for step, _ in told[0])
    outcomes = {one: read_outcome(run, one) for one in (*save, fail, pin, stop)}
    assert [o.stage for o in outcomes.values()] == [
        "done",
        "done",
        "failed",
        "refused",
        "done",
    ]
    assert outcomes[fail].error == "RuntimeError: no brakes"
    assert outcomes[pin].error == "1 ranks cannot carry it out"
    for rank in range(2):
        acked = [e.request for e in events(run, rank, RequestAcked)]
        assert acked == [*save, fail, stop]
        for told_of in (BarrierArrived, BarrierReleased):
            assert [e.name for e in events(run, rank, told_of)] == ["all.done"]
    assert len(events(run, 0, RequestDone)) == 5
    assert events(run, 1, RequestDone) == []


@pytest.mark.parametrize(
    ("backend", "device"),
    [
        ("gloo", "cpu"),
        ("undefined", "cpu"),  # one for each kind of device, gloo among them
        ("nccl", "cuda:3"),
        ("xccl", "xpu:3"),
    ],
)
def test_tensors_lie_where_the_group_can_reach_them(monkeypatch, backend, device):
    monkeypatch.setattr(agreeing.dist, "get_backend", lambda _group: backend)
    module = SimpleNamespace(current_device=lambda: 3)
    monkeypatch.setattr(torch, "get_device_module", lambda _kind: module)

    assert agreeing._device(None) == torch.device(device)


def wait_for_request(agent):
    while agent.at_step(1) is None:
        time.sleep(0.01)


def test_without_a_group_a_barrier_is_passed_without_a_word(tmp_path):
    with Agent.attach(tmp_path, heartbeat_s=0.02) as agent:
        pass_barrier(agent, "checkpoint.save")

    assert events(RunDir(tmp_path), 0, BarrierArrived) == []


def test_without_a_group_a_rank_decides_alone(tmp_path):
    with Agent.attach(tmp_path, heartbeat_s=0.02) as agent:
        agent.accept("stop")
        asked = write_request(RunDir(tmp_path), "stop")
        wait_for_request(agent)

        request = agree(agent, 10)
        with agent.obeying(request):
            again = agree(agent, 20)

    assert request.id == asked
    assert again is None
    assert read_outcome(RunDir(tmp_path), asked).stage == "done"


def test_between_two_agreements_nothing_is_asked(tmp_path):
    with Agent.attach(tmp_path, heartbeat_s=0.02) as agent:
        agent.accept("stop")
        write_request(RunDir(tmp_path), "stop")
        wait_for_request(agent)

        assert agree(agent, 11, every=10) is None
        assert agree(agent, 20, every=10) is not None


def test_a_request_that_is_gone_is_not_agreed_on(tmp_path):
    with Agent.attach(tmp_path, heartbeat_s=0.02) as agent:
        agent.accept("stop")
        asked = write_request(RunDir(tmp_path), "stop")
        wait_for_request(agent)
        proposed = agent.at_step(1)
        (RunDir(tmp_path).requests / f"{asked}.json").unlink()

        assert share(agent, proposed) is None
