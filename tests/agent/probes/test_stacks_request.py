"""Stacks on request: of a process that runs, of one that is frozen, of a server."""

import contextlib
import errno
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from agent.emitter import Emitter
from agent.probes.host_stacks import HostStacks
from agent.probes.inbox import Inbox
from agent.probes.peers import Peers
from agent.probes.stacks import Stacks, describe
from agent.probes.stacks_request import StacksOnRequest
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


def own(run, stem):
    """Return what a process told of its own stacks; of others' it may have to."""
    return [e for e in told(run, stem) if Path(e.file).stem == stem]


def wait_for_own(run, stem):
    """Wait until a process has told that it wrote its stacks: that comes after it."""
    while not own(run, stem):
        time.sleep(0.01)
    assert len(own(run, stem)) == 1


def stop(process, stacks):
    """Stop a process, and let the clock that stamps files go on after its last."""
    process.send_signal(signal.SIGSTOP)
    while not describe(process.pid).startswith("state T"):
        time.sleep(0.01)
    later = stacks.with_name("later")
    later.touch()
    while later.stat().st_mtime_ns <= stacks.stat().st_mtime_ns:
        time.sleep(0.001)
        later.touch()
    later.unlink()


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
        wait_for_own(run, stem)
        assert "waits_for_a_line" in stacks_file(run, 1, stem).read_text()


def test_only_the_ranks_that_were_asked_for_write(ranks, tmp_path):
    run = RunDir(tmp_path / "run")

    asked = write_request(run, "stacks", {"ranks": [1]}, attempt=1)

    assert wait_for_outcome(run, asked).stage == "done"
    wait_for_own(run, "rank-00001")
    assert own(run, "rank-00000") == []


def test_of_a_stopped_rank_its_state_is_told(ranks, tmp_path):
    run = RunDir(tmp_path / "run")
    stop(ranks[1], stacks_file(run, 1, "rank-00001"))

    asked = write_request(run, "stacks", attempt=1)
    outcome = wait_for_outcome(run, asked)
    ranks[1].send_signal(signal.SIGCONT)

    assert outcome.stage == "failed"
    assert outcome.error.startswith("none of rank 1: state T")
    mine, other = told(run, "rank-00000")
    assert "none of rank 1: the process is stopped: state T" in other.reason
    assert (mine.has_stacks, other.has_stacks) == (True, False)


def test_a_server_writes_its_own(tmp_path):
    run = RunDir(tmp_path)
    with Agent.attach(tmp_path, kind="federated", node="server", heartbeat_s=0.02):
        asked = write_request(run, "stacks", attempt=1)
        outcome = wait_for_outcome(run, asked)

    assert outcome.stage == "done"
    assert "test_a_server_writes_its_own" in stacks_file(run, 1, "server").read_text()


NODE = """
    import sys
    from agent.session import Agent

    def waits_for_a_line():
        print("ready", flush=True)
        sys.stdin.readline()

    folder, node = sys.argv[1:]
    options = dict(kind="federated", attempt=1, node=node, heartbeat_s=0.05)
    with Agent.attach(folder, **options):
        waits_for_a_line()
"""


@pytest.fixture
def clients(tmp_path):
    """A server and two clients on this host, each a process."""
    with subprocess_nodes(tmp_path, ("server", "client-1", "client-2")) as nodes:
        yield nodes


@contextlib.contextmanager
def subprocess_nodes(folder, names):
    with contextlib.ExitStack() as stack:
        nodes = {}
        for name in names:
            process = subprocess.Popen(
                [sys.executable, "-c", textwrap.dedent(NODE), str(folder), name],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            nodes[name] = stack.enter_context(process)
            stack.callback(process.kill)
            assert process.stdout.readline() == "ready\n"
        yield nodes


def test_the_outcome_at_a_server_names_the_client_that_is_stopped(clients, tmp_path):
    run = RunDir(tmp_path)
    stop(clients["client-1"], stacks_file(run, 1, "client-1"))

    asked = write_request(run, "stacks", attempt=1)
    outcome = wait_for_outcome(run, asked)

    assert outcome.stage == "failed"
    assert outcome.error.startswith("none of `client-1`: state T")
    assert "client-2" not in outcome.error
    for node in ("server", "client-2"):
        assert "waits_for_a_line" in stacks_file(run, 1, node).read_text()


def test_the_outcome_at_a_server_waits_for_its_clients(clients, tmp_path):
    run = RunDir(tmp_path)

    asked = write_request(run, "stacks", attempt=1)
    outcome = wait_for_outcome(run, asked)

    assert outcome.stage == "done"
    for node in clients:
        assert "waits_for_a_line" in stacks_file(run, 1, node).read_text()


def asked_alone(folder, *, is_main):
    """Return one process's duty, its agent's thread not running, and the run."""
    run = RunDir(folder)
    emitter = Emitter(run.telemetry_file(1, "rank-00000"), node="rank-0", rank=0)
    stacks = Stacks(emitter, run, 1)
    stacks.register()
    inbox = Inbox(emitter, run, 1) if is_main else None
    if inbox is not None:
        inbox.prepare()
    duty = StacksOnRequest(
        run=run,
        attempt=1,
        rank=0,
        stacks=stacks,
        peers=Peers(run, 1, 1, period_s=1.0),
        host=HostStacks(emitter, run, 1),
        inbox=inbox,
    )
    return duty, run


@pytest.fixture
def alone(tmp_path):
    duty, run = asked_alone(tmp_path, is_main=False)
    yield duty, run
    duty.stacks.close()


@pytest.mark.parametrize(
    "change",
    [
        {"args": {"ranks": 5}},
        {"args": {"ranks": ["x"]}},
        {"args": {"what": 1}},
        {"expires_ns": 1},
        {"attempt": None, "created_ns": 1},
        {"attempt": 2},
    ],
    ids=str,
)
def test_what_rank_0_would_refuse_no_rank_obeys(alone, change):
    duty, run = alone
    asked = write_request(run, "stacks", attempt=1)
    path = run.requests / f"{asked}.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))

    duty.look()
    assert told(run, "rank-00000") == []

    write_request(run, "stacks", attempt=1)
    duty.look()
    assert len(told(run, "rank-00000")) == 1


def test_stacks_that_cannot_be_written_have_failed(tmp_path, monkeypatch):
    duty, run = asked_alone(tmp_path, is_main=True)
    monkeypatch.setattr(duty.stacks, "write", no_room)
    asked = write_request(run, "stacks", attempt=1)

    while (outcome := read_outcome(run, asked)) is None:
        duty.look()
    duty.stacks.close()

    assert outcome.stage == "failed"
    assert "No space left" in outcome.error


def test_stacks_for_which_there_is_no_file_have_failed(tmp_path):
    duty, run = asked_alone(tmp_path, is_main=True)
    duty.stacks.close()
    asked = write_request(run, "stacks", attempt=1)

    while (outcome := read_outcome(run, asked)) is None:
        duty.look()

    assert outcome.stage == "failed"
    assert outcome.error == "stacks/0001/rank-00000.txt: it could not be opened"


def no_room(reason):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_run_that_ends_meanwhile_tells_that(tmp_path):
    duty, run = asked_alone(tmp_path, is_main=True)
    asked = write_request(run, "stacks", attempt=1)
    duty.look()
    assert read_outcome(run, asked) is None

    duty.end()
    duty.stacks.close()

    outcome = read_outcome(run, asked)
    assert outcome.stage == "failed"
    assert outcome.error == "the run ended before all ranks had answered"


def test_a_process_that_ends_leaves_no_request_for_stacks_open(tmp_path):
    run = RunDir(tmp_path)
    with Agent.attach(tmp_path, heartbeat_s=0.02):
        write_request(run, "stacks", attempt=1)
        while not told(run, "rank-00000"):
            time.sleep(0.01)

    assert not list(run.requests.glob("*.claimed"))
