"""Two ranks of one run on two hosts that share a disk and nothing else.

The other host is made of namespaces: a name, a boot and process numbers of its
own. So no rank can look at the other's process, as it is over a network.
"""

import contextlib
import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from agent.rundir.attempts import list_attempts
from agent.rundir.events import HangNamed, RunStarted, StepDone, decode_lines
from agent.rundir.layout import RunDir
from agent.rundir.requests import read_outcome, write_request

ROOT = Path(__file__).parent.parent.parent

WORKER = """
    import sys, time
    from pathlib import Path
    from agent.session import Agent

    def train_until_told(agent, folder):
        step = 0
        while not (folder / "enough").exists():
            step += 1
            agent.step_done(step)
            time.sleep(0.02)

    def wait_for_the_other(agent, folder):
        with agent.barrier("gate", limit_s=0.5):
            while not (folder / "enough").exists():
                time.sleep(0.02)

    folder, rank = Path(sys.argv[1]), int(sys.argv[2])
    place = {"rank": rank, "world_size": 2}
    with Agent.attach(folder / "run", **place, heartbeat_s=0.1) as agent:
        is_early = sys.argv[3:] == ["waits"] and rank == 0
        (wait_for_the_other if is_early else train_until_told)(agent, folder)
"""
ELSEWHERE = """
    set -e
    hostname elsewhere
    mount --bind "$0" /proc/sys/kernel/random/boot_id
    exec "$@"
"""
UNSHARE = ["unshare", "-r", "--uts", "--pid", "--fork", "--mount", "--mount-proc"]


def elsewhere(folder: Path) -> list[str]:
    """Return what starts a command on the other host; skips where that cannot be."""
    boot = folder / "boot"
    boot.write_text("11111111-2222-3333-4444-555555555555\n")
    prefix = [*UNSHARE, "sh", "-c", textwrap.dedent(ELSEWHERE), str(boot)]
    try:
        subprocess.run([*prefix, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no namespaces here: {error}")
    return prefix


def wait_until(is_so, ranks) -> None:
    while not is_so():
        assert all(rank.poll() is None for rank in ranks)
        time.sleep(0.02)


def first(run: RunDir, rank: int, event_type):
    """Return the first event of a type that a rank has told; None: none yet."""
    path = run.telemetry_file(1, f"rank-{rank:05d}")
    if not path.exists():
        return None
    found = decode_lines(path.read_bytes().rpartition(b"\n")[0])
    return next((event for event in found if isinstance(event, event_type)), None)


@contextlib.contextmanager
def on_two_hosts(folder: Path, *arguments: str):
    """Run rank 0 here and rank 1 elsewhere until the block ends."""
    own = [sys.executable, "-c", textwrap.dedent(WORKER), str(folder)]
    launched = {
        "MASTER_ADDR": "host-0",
        "MASTER_PORT": "29500",
        "TORCHELASTIC_RUN_ID": "one",
        "LOCAL_WORLD_SIZE": "1",
        "WORLD_SIZE": "2",
    }
    ranks = [
        subprocess.Popen(
            [*where, *own, str(rank), *arguments], cwd=ROOT, env=os.environ | launched
        )
        for rank, where in enumerate(([], elsewhere(folder)))
    ]
    try:
        yield ranks
    finally:
        (folder / "enough").touch()
        codes = [rank.wait() for rank in ranks]
    assert codes == [0, 0]


@pytest.mark.slow
def test_ranks_of_two_hosts_share_an_attempt_and_each_writes_its_own_stacks(tmp_path):
    run = RunDir(tmp_path / "run")
    with on_two_hosts(tmp_path) as ranks:
        for rank in range(2):
            wait_until(lambda rank=rank: first(run, rank, StepDone), ranks)
        asked = write_request(run, "stacks", attempt=1)
        wait_until(lambda: read_outcome(run, asked), ranks)

    assert list_attempts(run) == [1]
    here, there = (first(run, rank, RunStarted) for rank in range(2))
    assert there.host == "elsewhere"
    assert here.host != there.host
    assert here.boot_id != there.boot_id
    for rank in range(2):
        assert "train_until_told" in stacks_of(run, rank)


@pytest.mark.slow
def test_who_is_missed_from_another_host_writes_its_stacks(tmp_path):
    run = RunDir(tmp_path / "run")
    with on_two_hosts(tmp_path, "waits") as ranks:
        wait_until(lambda: "train_until_told" in stacks_of(run, 1), ranks)

    assert "wait_for_the_other" in stacks_of(run, 0)
    data = run.telemetry_file(1, "rank-00000").read_bytes()
    hangs = [e for e in decode_lines(data) if isinstance(e, HangNamed)]
    assert (hangs[0].barrier, hangs[0].missing) == ("gate", (1,))
    assert hangs[0].last_seen[0].stacks == "stacks/0001/rank-00001.txt"


def stacks_of(run: RunDir, rank: int) -> str:
    path = run.path / f"stacks/0001/rank-{rank:05d}.txt"
    return path.read_text() if path.exists() else ""
