"""Faults of a demo's run, done to processes and files of this test."""

import itertools
import signal
import subprocess
import sys
import time

import msgspec
import psutil
import pytest
import torch

from agent.rundir import events as ev
from agent.rundir.chunks.reader import ChunkStoreReader
from agent.rundir.process import ProcessId, start_ticks, this_process
from agent.rundir.stacks import StacksHeader, encode_header, stacks_file
from agent.rundir.verify.path import verify_path
from agent.rundir.verify.verdict import Level, State
from opsdash.commands import demo_faults as module
from opsdash.commands.demo import launch_command
from opsdash.commands.demo_faults import Fault, NoSuchFaultError
from tests.run_states import STATES
from tests.runs import RunWriter

PATIENCE_S = 30


@pytest.fixture
def victim():
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    yield process
    process.kill()
    process.wait()


@pytest.fixture
def run(tmp_path, victim):
    """A run of two ranks, of which rank 1 is a process of this test."""
    run = RunWriter(tmp_path / "run")
    run.begin()
    path = stacks_file(run.run, 1, "rank-00001")
    path.parent.mkdir(parents=True)
    header = StacksHeader(
        node="rank-1", rank=1, process=process_id_of(victim.pid), signum=None
    )
    path.write_bytes(encode_header(header))
    return run


def process_id_of(pid: int) -> ProcessId:
    """Another process of this host, as its agent would name it."""
    started = start_ticks(pid)
    return msgspec.structs.replace(this_process(), pid=pid, pid_start=started)


def until(is_so):
    deadline = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def is_stopped(process):
    return psutil.Process(process.pid).status() == psutil.STATUS_STOPPED


def test_nothing_happens_before_the_run_has_come_far_enough(run, victim, monkeypatch):
    looks, decode = [], module.decode_lines
    monkeypatch.setattr(
        module, "decode_lines", lambda data: looks.append(data) or decode(data)
    )
    run.steps(1, module._AFTER_STEP - 1)

    with Fault(run.run, "ddp", "kill").applied():
        until(lambda: len(looks) > 1 and any(looks))
        before = victim.poll()
        run.steps(module._AFTER_STEP, module._AFTER_STEP)
        until(lambda: victim.poll() is not None)

    assert before is None
    assert victim.returncode == -signal.SIGKILL


def test_a_hang_stops_a_rank_until_the_demo_is_left(run, victim):
    run.steps(1, module._AFTER_STEP)

    with Fault(run.run, "ddp", "hang").applied():
        until(lambda: is_stopped(victim))

    until(lambda: not is_stopped(victim))


def test_a_straggler_is_stopped_and_let_go_and_goes_on_afterwards(run, victim):
    run.steps(1, module._AFTER_STEP)
    seen = set()

    with Fault(run.run, "ddp", "straggler").applied():
        until(lambda: seen.add(is_stopped(victim)) or len(seen) == 2)

    until(lambda: not is_stopped(victim))


def test_a_process_that_took_the_pid_is_not_touched(run, victim, monkeypatch):
    run.steps(1, module._AFTER_STEP)
    path = stacks_file(run.run, 1, "rank-00001")
    other = msgspec.structs.replace(process_id_of(victim.pid), pid_start=1)
    header = StacksHeader(node="rank-1", rank=1, process=other, signum=None)
    path.write_bytes(encode_header(header))

    fault = Fault(run.run, "ddp", "kill")
    with fault.applied():
        until(lambda: not fault._thread.is_alive())

    assert victim.poll() is None


def test_a_bit_is_flipped_that_verifying_finds(run):
    torch.save({"w": torch.ones(1000)}, run.path / "state.pt")
    content = (run.path / "state.pt").read_bytes()
    path = run.checkpoint(10, content=content)
    before = verify_path(path, Level.CONTENT).state
    run.steps(1, module._AFTER_STEP)

    with Fault(run.run, "ddp", "corrupt").applied():
        until(lambda: (path / "state.pt").read_bytes() != content)

    assert before is State.SOUND
    assert verify_path(path, Level.CONTENT).exit_code == 2


def test_a_bit_of_a_client_s_store_is_flipped(tmp_path):
    run = STATES["federated"](tmp_path / "fl")
    path = run.run.chunk_store("client-1")
    before = verify_store(path)
    run.emit("server", ev.ClientUpdate, client="c", num_examples=1, round_num=9)

    with Fault(run.run, "fl", "corrupt").applied():
        until(lambda: verify_store(path) != before)

    assert (before, verify_store(path)) == (0, 1)


def verify_store(path):
    with ChunkStoreReader(path) as reader:
        return len(reader.verify().findings)


def test_ranks_do_not_reconnect(run):
    with pytest.raises(NoSuchFaultError) as caught:
        Fault(run.run, "ddp", "reconnect")

    assert caught.value.hint == "opsdash demo fl --fault reconnect"


@pytest.mark.parametrize("fault", sorted(module.WORDS))
def test_every_fault_is_told_before_it_happens(run, fault):
    kind = "fl" if fault == "reconnect" else "ddp"

    assert Fault(run.run, kind, fault).words.startswith("fault: after ")


def test_every_round_of_a_demo_is_kept_for_whoever_looks(tmp_path):
    words = launch_command(tmp_path / "run", "fl")
    options = dict(itertools.pairwise(words))

    assert options["--chunk-keep-rounds"] == options["--rounds"]
