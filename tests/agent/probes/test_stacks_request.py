"""Stacks on request: of a process that runs, of one that is frozen, of a server."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from agent.probes.stacks import describe
from agent.rundir.events import StacksWritten, decode_lines
from agent.rundir.layout import RunDir
from agent.rundir.requests import read_outcome, write_request
from agent.rundir.stacks import stacks_file
from agent.session import Agent

ROOT = Path(__file__).parent.parent.parent.parent

RANK = """
    import sys
    from agent.session import Agent

    def waits_for_a_line():
        print("ready", flush=True)
        sys.stdin.readline()

    with Agent.attach(sys.argv[1], heartbeat_s=0.05) as agent:
        waits_for_a_line()
"""


def wait_for_outcome(run, request_id):
    while read_outcome(run, request_id) is None:
        time.sleep(0.01)
    return read_outcome(run, request_id)


def told(run, stem):
    data = run.telemetry_file(1, stem).read_bytes()
    return [e for e in decode_lines(data) if isinstance(e, StacksWritten)]


@pytest.fixture
def ranks(tmp_path):
    """Two ranks on this host; no process group is needed to be asked."""
    environment = os.environ | {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "5",
        "WORLD_SIZE": "2",
    }
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(RANK), str(tmp_path / "run")],
            cwd=ROOT,
            env=environment | {"RANK": str(rank)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    yield processes
    for process in processes:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


def test_every_rank_writes_its_own_stacks(ranks, tmp_path):
    run = RunDir(tmp_path / "run")

    asked = write_request(run, "stacks", attempt=1)

    assert wait_for_outcome(run, asked).stage == "done"
    for rank in range(2):
        stem = f"rank-{rank:05d}"
        assert "waits_for_a_line" in stacks_file(run, 1, stem).read_text()
        assert len(told(run, stem)) == 1


def test_only_the_ranks_that_were_asked_for_write(ranks, tmp_path):
    run = RunDir(tmp_path / "run")

    asked = write_request(run, "stacks", {"ranks": [1]}, attempt=1)

    assert wait_for_outcome(run, asked).stage == "done"
    assert told(run, "rank-00000") == []
    assert len(told(run, "rank-00001")) == 1


def test_of_a_stopped_rank_its_state_is_told(ranks, tmp_path):
    run = RunDir(tmp_path / "run")
    ranks[1].send_signal(signal.SIGSTOP)
    while not describe(ranks[1].pid).startswith("state T"):
        time.sleep(0.01)

    asked = write_request(run, "stacks", attempt=1)
    wait_for_outcome(run, asked)
    ranks[1].send_signal(signal.SIGCONT)

    reasons = [e.reason for e in told(run, "rank-00000")]
    assert len(reasons) == 2
    assert "none of rank 1: the process is stopped: state T" in reasons[1]


def test_a_server_writes_its_own(tmp_path):
    run = RunDir(tmp_path)
    with Agent.attach(tmp_path, kind="federated", node="server", heartbeat_s=0.02):
        asked = write_request(run, "stacks", attempt=1)
        outcome = wait_for_outcome(run, asked)

    assert outcome.stage == "done"
    assert "test_a_server_writes_its_own" in stacks_file(run, 1, "server").read_text()
