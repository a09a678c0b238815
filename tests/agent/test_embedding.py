"""The agent in foreign loops: torchrun, elastic restarts, `mp.spawn`, lost disks."""

import contextlib
import itertools
import os
import shutil
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from agent.rundir.attempts import list_attempts, read_attempt
from agent.rundir.events import EventsDropped, RunEnded, RunStarted, decode_lines
from agent.rundir.layout import RunDir
from agent.rundir.lock import read_lock
from agent.rundir.process import Liveness, this_process
from agent.rundir.requests import read_outcome, write_request
from agent.session import Agent

ROOT = Path(__file__).parent.parent.parent

LOOP = """
    import os, sys
    import torch
    import torch.distributed as dist
    from agent.session import Agent

    def main(run_dir, fails):
        # Not torchrun's own store: after a restart it still holds the addresses
        # of the ranks that are gone, and gloo may try those.
        restart = os.environ["TORCHELASTIC_RESTART_COUNT"]
        dist.init_process_group(
            "gloo",
            init_method=f"file://{run_dir}-store-{restart}",
            rank=int(os.environ["RANK"]),
            world_size=int(os.environ["WORLD_SIZE"]),
        )
        with Agent.attach(run_dir) as agent:
            for step in range(1, 4):
                with agent.wait("sum"):
                    dist.all_reduce(torch.ones(1))
                agent.step_done(step)
            if fails and restart == "0" and dist.get_rank() == 1:
                raise RuntimeError("a cosmic ray")
            dist.barrier()
        dist.destroy_process_group()

    if __name__ == "__main__":
        main(sys.argv[1], len(sys.argv) > 2)
"""

TWO_NODES = """
    import os, sys, time
    from pathlib import Path
    from agent.session import Agent

    run_dir, node = Path(sys.argv[1]), sys.argv[2]
    is_again = (run_dir.parent / "failed").exists()
    with Agent.attach(run_dir, heartbeat_s=0.1) as agent:
        agent.step_done(1)
        (run_dir.parent / f"{node}-{is_again}").touch()
        while not all((run_dir.parent / f"{n}-{is_again}").exists() for n in "ab"):
            time.sleep(0.05)
        if not is_again and node == "b":
            (run_dir.parent / "failed").touch()
            raise RuntimeError("a cosmic ray")
        while not is_again:  # until its node hears that the other one comes again
            time.sleep(0.05)
"""

SPAWN = """
    import os, sys
    import torch
    import torch.distributed as dist
    from agent.session import Agent

    def rank_main(rank, run_dir):
        store = f"file://{run_dir}-store"
        dist.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
        with Agent.attach(run_dir, rank=rank, world_size=2) as agent:
            dist.barrier()
            agent.step_done(1)
        dist.barrier()
        dist.destroy_process_group()

    if __name__ == "__main__":
        torch.multiprocessing.spawn(rank_main, (sys.argv[1],), nprocs=2)
"""


def started(run, attempt, rank):
    data = run.telemetry_file(attempt, f"rank-{rank:05d}").read_bytes()
    return next(e for e in decode_lines(data) if isinstance(e, RunStarted))


def ended(run, attempt, rank):
    data = run.telemetry_file(attempt, f"rank-{rank:05d}").read_bytes()
    return [e.reason for e in decode_lines(data) if isinstance(e, RunEnded)]


def write_script(folder, text):
    script = folder / "train.py"
    script.write_text(textwrap.dedent(text))
    return script


def start(*command):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, *command], env=environment, capture_output=True, text=True
    )


@pytest.mark.dist
@pytest.mark.slow
def test_under_torchrun_every_restart_is_another_attempt(tmp_path):
    script = write_script(tmp_path, LOOP)
    run = RunDir(tmp_path / "run")

    result = start(
        *("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"),
        *("--max-restarts", "1", str(script), str(run.path), "fail"),
    )

    assert result.returncode == 0, result.stderr
    assert list_attempts(run) == [1, 2]
    assert read_attempt(run, 2).world_size == 2
    assert [started(run, attempt, 1).attempt for attempt in (1, 2)] == [1, 2]
    assert ended(run, 1, 1) == ["error"]
    assert ended(run, 2, 0) == ended(run, 2, 1) == ["completed"]


@pytest.mark.dist
@pytest.mark.slow
def test_spawned_ranks_find_each_other_and_every_start_is_an_attempt(tmp_path):
    script = write_script(tmp_path, SPAWN)
    run = RunDir(tmp_path / "run")

    for attempt in (1, 2):
        (tmp_path / "run-store").unlink(missing_ok=True)
        result = start(str(script), str(run.path))

        assert result.returncode == 0, result.stderr
        assert [ended(run, attempt, rank) for rank in range(2)] == [["completed"]] * 2
    assert list_attempts(run) == [1, 2]


def test_a_run_directory_that_vanishes_leaves_training_alone_and_comes_back(tmp_path):
    run = RunDir(tmp_path / "run")
    with Agent.attach(run.path, heartbeat_s=0.02) as agent:
        agent.accept("stop")
        agent.step_done(1)
        # At once: the agent's thread would fill what is being emptied.
        shutil.rmtree(run.path.rename(tmp_path / "gone"))
        telemetry = run.telemetry / "0001"

        while not (telemetry.is_dir() and any(telemetry.iterdir())):
            agent.step_done(2)
            time.sleep(0.01)
        while not run.identity.exists():
            time.sleep(0.01)
        assert read_lock(run.lock).liveness is Liveness.ALIVE
        assert read_attempt(run, 1).process == this_process()
        asked = write_request(run, "stop", attempt=1)
        while (request := agent.at_step(3)) is None:
            time.sleep(0.01)
        assert agent.claim(request)
        with agent.obeying(request):
            agent.step_done(3)

    assert read_outcome(run, asked).stage == "done"
    lines = b"".join(p.read_bytes() for p in sorted(telemetry.glob("*.jsonl")))
    assert b'"step_done"' in lines
    assert b'"run_ended"' in lines


def test_a_run_directory_that_cannot_be_written_is_said_and_training_goes_on(tmp_path):
    run = RunDir(tmp_path / "run")
    with Agent.attach(run.path, heartbeat_s=0.02) as agent:
        put_in_the_way(run.requests)
        while not any("requests: NotADirectoryError" in why for why in lost(run)):
            agent.step_done(1)
            time.sleep(0.01)


def put_in_the_way(directory):
    """Leave a file in a directory's place; the agent may make it again meanwhile."""
    for number in itertools.count():
        if not directory.is_dir():
            return
        directory.rename(directory.with_name(f"gone-{number}"))
        with contextlib.suppress(IsADirectoryError):
            directory.write_text("in the way")


def lost(run):
    """Return why events were dropped, as far as it was told."""
    data = run.telemetry_file(1, "rank-00000").read_bytes()
    return [e.reason for e in decode_lines(data) if isinstance(e, EventsDropped)]


@pytest.mark.dist
@pytest.mark.slow
def test_nodes_that_count_their_restarts_differently_share_the_next_attempt(tmp_path):
    script = write_script(tmp_path, TWO_NODES)
    run = RunDir(tmp_path / "run")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    launch = (
        *(sys.executable, "-m", "torch.distributed.run"),
        *("--nnodes", "2", "--nproc-per-node", "1", "--max-restarts", "2"),
        *("--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{port}"),
        *("--rdzv-id", "one", str(script), str(run.path)),
    )

    nodes = [
        subprocess.Popen([*launch, node], env=environment, stderr=subprocess.DEVNULL)
        for node in "ab"
    ]

    try:
        while any(node.poll() is None for node in nodes):
            assert {node.poll() for node in nodes} <= {None, 0}
            time.sleep(0.05)
    finally:
        for node in nodes:
            node.terminate()  # and so its workers
    assert [node.wait() for node in nodes] == [0, 0]
    assert list_attempts(run) == [1, 2]
    for rank in range(2):
        assert started(run, 2, rank).rank == rank
        assert ended(run, 2, rank) == ["completed"]
