"""Three real processes that get stuck in turn, in the three ways there are."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from agent.rundir.events import (
    HangNamed,
    Heartbeat,
    StacksWritten,
    Undecodable,
    decode_lines,
)
from agent.rundir.layout import RunDir

ROOT = Path(__file__).parent.parent.parent.parent

WORKER = """
    import ctypes, os, signal, sys, time
    from pathlib import Path
    import torch
    import torch.distributed as dist
    from agent.session import Agent

    folder, rank = Path(sys.argv[1]), int(os.environ["RANK"])
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=3
    )

    def stuck_in_native_code():
        pipe = os.open(folder / "pipe", os.O_RDONLY)
        # PyDLL keeps the GIL: no thread of this process runs Python meanwhile.
        ctypes.PyDLL(None).read(pipe, ctypes.create_string_buffer(1), 1)

    def stuck_in_python(flag="go-on"):
        while not (folder / flag).exists():
            time.sleep(0.02)

    def stopped():
        os.kill(os.getpid(), signal.SIGSTOP)

    STUCK = {(2, 2): stuck_in_native_code, (4, 1): stuck_in_python, (6, 0): stopped}
    with Agent.attach(folder / "run", heartbeat_s=0.1, hang_limit_s=1) as agent:
        agent.phase("training")
        for step in range(1, 8):
            STUCK.get((step, rank), lambda: None)()
            with agent.barrier(f"gate-{step}", limit_s=0.5):
                dist.barrier()
            agent.step_done(step)
        for step in range(8, 40):
            if (step, rank) == (30, 1):
                stuck_in_python("go-on-too")
            dist.all_reduce(torch.ones(1))  # nobody wraps this one
            agent.step_done(step)
    dist.destroy_process_group()
"""


class Job:
    """Three ranks, and what they have told so far."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        os.mkfifo(folder / "pipe")
        environment = os.environ | {
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": "1",
            "WORLD_SIZE": "3",
            "OMP_NUM_THREADS": "1",
        }
        self.ranks = [
            subprocess.Popen(
                [sys.executable, "-c", textwrap.dedent(WORKER), str(folder)],
                cwd=ROOT,
                env=environment | {"RANK": str(rank)},
            )
            for rank in range(3)
        ]

    def events(self) -> list:
        found = []
        for rank in range(3):
            path = RunDir(self.folder / "run").telemetry_file(1, f"rank-{rank:05d}")
            if path.exists():
                found += decode_lines(path.read_bytes().rpartition(b"\n")[0])
        assert not any(isinstance(event, Undecodable) for event in found)
        return sorted(found, key=lambda event: event.time_ns)

    def wait_for(self, condition):
        """Return the first event for which the condition holds."""
        while True:
            for event in self.events():
                if condition(event):
                    return event
            assert all(rank.poll() is None for rank in self.ranks)
            time.sleep(0.05)

    def wait_for_hang(self, barrier: str, missing: int) -> HangNamed:
        return self.wait_for(
            lambda e: (
                isinstance(e, HangNamed)
                and e.barrier == barrier
                and e.missing == (missing,)
            )
        )

    def wait_for_stacks(self, rank: int) -> StacksWritten:
        name = f"rank-{rank:05d}.txt"
        return self.wait_for(
            lambda e: (
                isinstance(e, StacksWritten)
                and e.file.endswith(name)
                and f"rank {rank}" in e.reason
            )
        )

    def stacks(self, rank: int) -> str:
        return (self.folder / f"run/stacks/0001/rank-{rank:05d}.txt").read_text()

    def end(self) -> None:
        for rank in self.ranks:
            if rank.poll() is None:
                rank.kill()
            rank.wait()


@pytest.fixture
def job(tmp_path):
    job = Job(tmp_path)
    yield job
    job.end()


@pytest.mark.dist
@pytest.mark.slow
@pytest.mark.soak  # three ranks and their beats want more than half a core each
def test_a_rank_that_is_stuck_is_named_with_its_stacks_until_it_goes_on(job):
    named = job.wait_for_hang("gate-2", 2)
    told = job.wait_for_stacks(2)
    # Longer than any step may take: rank 2 must not blame the others afterwards.
    job.wait_for(lambda e: isinstance(e, Heartbeat) and (e.waiting_age_ns or 0) > 2e9)
    with (job.folder / "pipe").open("wb") as pipe:
        pipe.write(b"x")

    assert named.rank == 0
    assert "last seen in phase `training` at step 1" in told.reason
    assert "stuck_in_native_code" in job.stacks(2)
    assert "<module>" in job.stacks(0)

    named = job.wait_for_hang("gate-4", 1)
    job.wait_for_stacks(1)
    (job.folder / "go-on").touch()

    assert named.rank == 0
    assert "stuck_in_python" in job.stacks(1)

    named = job.wait_for_hang("gate-6", 0)
    told = job.wait_for_stacks(0)
    job.ranks[0].send_signal(signal.SIGCONT)

    assert named.rank == 1
    assert "the process is stopped: state T" in told.reason
    [seen] = named.last_seen
    assert (seen.rank, seen.phase) == (0, "training")
    assert seen.step is not None
    assert seen.stacks == told.file
    assert (named.group, named.limit_ns) == (None, 500_000_000)

    named = job.wait_for(
        lambda e: isinstance(e, HangNamed) and "all_reduce" in e.barrier and e.missing
    )
    (job.folder / "go-on-too").touch()

    assert named.missing == (1,)
    assert named.barrier.startswith("gloo:all_reduce ")
    assert named.barrier.endswith(" of group 0 default_pg")
    assert named.group == "0 default_pg"
    assert f" {named.index} of group" in named.barrier

    assert [rank.wait() for rank in job.ranks] == [0, 0, 0]
    hangs = [e for e in job.events() if isinstance(e, HangNamed)]
    last = {e.barrier: e.missing for e in hangs}
    assert last.keys() >= {"gate-2", "gate-4", "gate-6", named.barrier}
    assert set(last.values()) == {()}
    assert {name for name in last if name.startswith("gloo")} == {named.barrier}
    assert all(e.waited_ns >= 0.5e9 for e in hangs)
