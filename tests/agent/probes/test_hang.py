"""Three real processes that get stuck in turn, in the ways there are."""

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
        pipe = os.open(folder / "pipe", os.O_RDWR)
        # PyDLL keeps the GIL: no thread of this process runs Python meanwhile.
        ctypes.PyDLL(None).read(pipe, ctypes.create_string_buffer(1), 1)

    def stuck_in_python(flag="go-on"):
        while not (folder / flag).exists():
            time.sleep(0.02)

    def stopped():
        os.kill(os.getpid(), signal.SIGSTOP)

    STUCK = {(2, 2): stuck_in_native_code, (4, 1): stuck_in_python, (6, 0): stopped}
    with Agent.attach(folder / "run", heartbeat_s=0.2, hang_limit_s=2) as agent:
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

NESTED = """
    import os, sys, time
    from pathlib import Path
    import torch
    import torch.distributed as dist
    from agent.session import Agent

    folder, rank = Path(sys.argv[1]), int(os.environ["RANK"])
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=3
    )

    def stuck(flag):
        while not (folder / flag).exists():
            time.sleep(0.02)

    with Agent.attach(folder / "run", heartbeat_s=0.2, hang_limit_s=60) as agent:
        agent.phase("training")
        with agent.barrier("save", limit_s=0.5):
            if rank == 2:
                stuck("go-on")
            with agent.wait("verdict"):
                dist.all_reduce(torch.ones(1))
            if rank == 1:
                stuck("go-on-too")
            dist.all_reduce(torch.ones(1))
        agent.step_done(1)
    dist.destroy_process_group()
"""


class Job:
    """Three ranks, and what they have told so far."""

    def __init__(self, folder: Path, worker: str = WORKER) -> None:
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
                [sys.executable, "-c", textwrap.dedent(worker), str(folder)],
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
            self.look_again()

    def wait_for_hang(self, barrier: str, missing: int) -> HangNamed:
        return self.wait_for(
            lambda e: (
                isinstance(e, HangNamed)
                and e.barrier == barrier
                and e.missing == (missing,)
            )
        )

    def wait_for_stacks(self, barrier: str, rank: int, said: str = "") -> StacksWritten:
        name = f"rank-{rank:05d}.txt"
        return self.wait_for(
            lambda e: (
                isinstance(e, StacksWritten)
                and e.file.endswith(name)
                and f"rank {rank}" in e.reason
                and e.reason.startswith(f"`{barrier}`")
                and said in e.reason
            )
        )

    def wait_for_frame(self, rank: int, function: str) -> None:
        """Wait until a rank's stacks tell of a function; signals write in pieces."""
        path = self.folder / f"run/stacks/0001/rank-{rank:05d}.txt"
        while function not in path.read_text():
            self.look_again()

    def look_again(self) -> None:
        assert all(rank.poll() is None for rank in self.ranks)
        time.sleep(0.05)

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


@pytest.fixture
def nested(tmp_path):
    job = Job(tmp_path, NESTED)
    yield job
    job.end()


@pytest.mark.dist
@pytest.mark.slow
def test_of_waits_inside_each_other_that_is_named_at_which_a_rank_is_missing(nested):
    at_verdict = nested.wait_for_hang("verdict", 2)
    (nested.folder / "go-on").touch()
    inside = nested.wait_for(
        lambda e: isinstance(e, HangNamed) and e.group and e.missing == (1,)
    )
    (nested.folder / "go-on-too").touch()

    assert [rank.wait() for rank in nested.ranks] == [0, 0, 0]
    assert [seen.waiting_at for seen in at_verdict.last_seen] == ["save"]
    assert [seen.waiting_at for seen in inside.last_seen] == ["save"]
    assert inside.barrier.startswith("gloo:all_reduce ")
    hangs = [e for e in nested.events() if isinstance(e, HangNamed)]
    last = {e.barrier: e.missing for e in hangs}
    assert last.keys() >= {"verdict", inside.barrier}
    assert set(last.values()) == {()}


@pytest.mark.dist
@pytest.mark.slow
def test_a_rank_that_is_stuck_is_named_with_its_stacks_until_it_goes_on(job):
    named = [job.wait_for_hang("gate-2", 2)]
    job.wait_for_stacks("gate-2", 2)
    # Longer than any step may take: rank 2 must not blame the others afterwards.
    job.wait_for(lambda e: isinstance(e, Heartbeat) and (e.waiting_age_ns or 0) > 3e9)
    job.wait_for_frame(2, "stuck_in_native_code")
    job.wait_for_frame(0, "<module>")
    with (job.folder / "pipe").open("wb") as pipe:
        pipe.write(b"x")

    named += [job.wait_for_hang("gate-4", 1)]
    job.wait_for_stacks("gate-4", 1)
    job.wait_for_frame(1, "stuck_in_python")
    (job.folder / "go-on").touch()

    named += [job.wait_for_hang("gate-6", 0)]
    job.wait_for_stacks("gate-6", 0, "the process is stopped: state T")
    job.ranks[0].send_signal(signal.SIGCONT)

    # On a busy machine other collectives may have taken as long before.
    at_collective = job.wait_for(
        lambda e: (
            isinstance(e, HangNamed) and "all_reduce" in e.barrier and e.step == 29
        )
    )
    (job.folder / "go-on-too").touch()

    assert at_collective.missing == (1,)
    assert at_collective.barrier.startswith("gloo:all_reduce ")
    assert at_collective.barrier.endswith(" of group 0 default_pg")

    assert [rank.wait() for rank in job.ranks] == [0, 0, 0]
    hangs = [e for e in job.events() if isinstance(e, HangNamed)]
    last = {e.barrier: e.missing for e in hangs}
    assert last.keys() >= {e.barrier for e in (*named, at_collective)}
    assert set(last.values()) == {()}
    # Whoever tells it waits there itself; usually it is the lowest one alone.
    assert all(e.rank not in e.missing for e in hangs)
    blamed = {e.missing for e in hangs if e.barrier == at_collective.barrier}
    assert blamed == {(1,), ()}
    assert all(e.waited_ns >= 0.5e9 for e in hangs)
