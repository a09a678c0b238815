"""Three real ranks, one of them late: at a wait of every step, or in backward."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from agent.rundir.events import StragglerNamed, decode_lines
from agent.rundir.layout import RunDir
from agent.rundir.stragglers import MIN_STEPS

ROOT = Path(__file__).parent.parent.parent.parent

WORKER = """
    import os, sys, time
    from pathlib import Path
    from statistics import median
    import torch
    import torch.distributed as dist
    from torch.nn.parallel import DistributedDataParallel
    from agent.session import Agent

    folder, rank = Path(sys.argv[1]), int(os.environ["RANK"])
    num_steps, backward, forward, is_paired = map(int, sys.argv[2:])
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=3
    )
    LATE = {("backward", 1), ("forward", 2)}
    WORK_S = 0.02
    late_s = 0.0
    slow_in = None

    class SlowBackward(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            if slow_in == "backward":
                time.sleep(late_s)
            return grad

    torch.manual_seed(0)
    layers = [torch.nn.Linear(64, 64) for _ in range(8)]
    model = torch.nn.Sequential(*layers)
    layers[6].register_forward_hook(lambda m, i, out: SlowBackward.apply(out))
    ddp = DistributedDataParallel(model, bucket_cap_mb=0.02)
    data = torch.randn(8, 64)
    pair = dist.new_group([1, 2]) if is_paired else None

    def work():
        loss = ddp(data).square().mean()
        time.sleep(WORK_S)
        return loss

    def finish(loss):
        loss.backward()
        model.zero_grad()

    took_s = []
    for _ in range(12):
        began = time.monotonic()
        loss = work()
        dist.all_reduce(torch.ones(1))
        finish(loss)
        took_s.append(time.monotonic() - began)
    # Far more than what the machine does to a rank, however busy it is now.
    late_s = max(0.05, 4 * (median(took_s) - WORK_S))
    with Agent.attach(folder / "run", heartbeat_s=0.1) as agent:
        agent.phase("training")
        for step in range(1, num_steps + 1):
            late = "backward" if backward <= step < forward else None
            late = "forward" if step >= forward else late
            slow_in = late if (late, rank) in LATE else None
            loss = work()
            if slow_in == "forward":
                time.sleep(late_s)
            if pair is not None and rank > 0:
                dist.all_reduce(torch.ones(1), group=pair)
            with agent.wait("step.agree"):
                dist.all_reduce(torch.ones(1))
            finish(loss)
            agent.step_done(step)
    dist.destroy_process_group()
"""


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """Verdicts of a job in which rank 1, then rank 2 is late from step 46, 86."""
    folder = tmp_path_factory.mktemp("straggler")
    return train(folder, num_steps=130, backward=46, forward=86)


def train(folder, *, num_steps, backward, forward, is_paired=False):
    """Train with a rank that is late in those from those steps on.

    `is_paired`: ranks 1 and 2 wait for each other before all ranks do.
    """
    arguments = [num_steps, backward, forward, int(is_paired)]
    environment = os.environ | {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "2",
        "WORLD_SIZE": "3",
        "OMP_NUM_THREADS": "1",
    }
    ranks = [
        subprocess.Popen(
            [
                sys.executable,
                "-c",
                textwrap.dedent(WORKER),
                str(folder),
                *map(str, arguments),
            ],
            cwd=ROOT,
            env=environment | {"RANK": str(rank)},
        )
        for rank in range(3)
    ]
    assert [rank.wait() for rank in ranks] == [0, 0, 0]
    return RunDir(folder / "run")


def verdicts(run):
    data = run.telemetry_file(1, "rank-00000").read_bytes()
    return [e for e in decode_lines(data) if isinstance(e, StragglerNamed)]


@pytest.mark.dist
@pytest.mark.slow
@pytest.mark.parametrize(("straggler", "onset"), [(1, 46), (2, 86)])
def test_a_late_rank_is_named_from_the_steps_it_was_late_in(told, straggler, onset):
    found = [v for v in verdicts(told) if v.straggler == straggler and v.step >= onset]

    assert found
    first = found[0]
    assert first.is_persistent
    assert first.lost_frac > 0.1
    # Of the run as far as it was read, which may be beyond the verdict's window.
    assert 0 < first.run_frac < 1
    assert first.lost_rank_ns > 0
    assert not first.is_rotating
    # Other load makes ranks late too; and where it keeps the verdict back for so long
    # that its window has left the onset behind, it begins with the window.
    assert onset - 12 <= first.since_step
    assert first.since_step <= max(onset + 12, first.step - MIN_STEPS)


@pytest.mark.dist
@pytest.mark.slow
def test_who_is_late_inside_backward_from_the_beginning_is_named_soon(tmp_path):
    run = train(tmp_path, num_steps=60, backward=1, forward=1_000)

    first = verdicts(run)[0]

    # Within twenty steps where nothing else holds the ranks up; sampled as rarely
    # as later, it would take forty at best.
    assert (first.straggler, first.is_persistent) == (1, True)
    assert first.step < 40


@pytest.mark.dist
@pytest.mark.slow
def test_who_holds_up_its_own_group_is_told_from_who_is_held_up(tmp_path):
    run = train(tmp_path, num_steps=80, backward=1_000, forward=1, is_paired=True)

    # At the wait of all ranks 1 and 2 come late together, ever another one last.
    assert 2 in {verdict.straggler for verdict in verdicts(run)}
