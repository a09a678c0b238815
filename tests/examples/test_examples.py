"""Every example that can run here does; the others have to parse."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from agent.rundir.events import OptimizerNorms, RunEnded, StepDone, decode_lines
from agent.rundir.layout import RunDir
from agent.rundir.requests import read_accepted, read_outcome, write_request

ROOT = Path(__file__).parent.parent.parent
EXAMPLES = ROOT / "examples"
TORCHRUN = (
    *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
    *("--nproc-per-node", "2"),
)


def start(*command: str, num_steps: int) -> subprocess.Popen:
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "NUM_STEPS": str(num_steps),
    }
    return subprocess.Popen(command, cwd=ROOT, env=environment)


def events(run: RunDir, event_type, rank=0, attempt=1):
    path = run.telemetry_file(attempt, f"rank-{rank:05d}")
    return [e for e in decode_lines(path.read_bytes()) if isinstance(e, event_type)]


@pytest.mark.dist
@pytest.mark.slow
@pytest.mark.parametrize("launcher", [(sys.executable,), TORCHRUN])
def test_three_lines_are_enough(tmp_path, launcher):
    run = RunDir(tmp_path / "run")

    script = str(EXAMPLES / "three_lines.py")
    assert start(*launcher, script, str(run.path), num_steps=201).wait() == 0

    for rank in range(2 if launcher is TORCHRUN else 1):
        assert [e.step for e in events(run, StepDone, rank)] == list(range(1, 202))
        assert [e.reason for e in events(run, RunEnded, rank)] == ["completed"]
        assert len(events(run, OptimizerNorms, rank)) == 2


@pytest.mark.dist
@pytest.mark.slow
def test_a_loop_of_ones_own_is_operated_and_goes_on_where_it_stopped(tmp_path):
    run = RunDir(tmp_path / "run")
    command = (*TORCHRUN, str(EXAMPLES / "operated_loop.py"), str(run.path))
    process = start(*command, num_steps=10**6)

    while "stop" not in taken(run):
        assert process.poll() is None
        time.sleep(0.02)
    done = []
    for kind in ("checkpoint-now", "pause", "checkpoint-now", "continue", "stop"):
        asked = write_request(run, kind, attempt=1)
        while read_outcome(run, asked) is None:
            assert process.poll() is None
            time.sleep(0.02)
        done.append(read_outcome(run, asked).stage)

    assert done == ["done"] * 5
    assert process.wait() == 0
    assert events(run, RunEnded)[-1].reason == "stopped"
    last_step = events(run, StepDone)[-1].step
    assert start(*command, num_steps=last_step + 5).wait() == 0
    again = [e.step for e in events(run, StepDone, attempt=2)]
    assert again == list(range(last_step + 1, last_step + 6))


def taken(run):
    accepted = read_accepted(run)
    return accepted.kinds if accepted else ()


@pytest.mark.parametrize("name", ["two_nodes.sh", "slurm.sbatch"])
def test_a_launch_script_parses(name):
    assert subprocess.run(["bash", "-n", EXAMPLES / name]).returncode == 0


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda p: p.name)
def test_a_script_parses(path):
    compile(path.read_text(), path.name, "exec")
