"""What watching costs a training run: the demo model on two ranks, agent on and off.

Two process groups train the same model, one with the agent, one without. They
take turns, block by block of steps, in the order on-off-off-on, so that a busy
machine slows both; each pair of neighbouring blocks gives one ratio of step
times. The median of the ratios is compared, with its interval from a bootstrap.
Beside it stands what the agent measures of itself, which no noise hides.

    python benchmarks/overhead.py [--pairs 40] [--steps 10]
"""

import argparse
import os
import random
import statistics
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.table import Row, print_table

ROOT = Path(__file__).resolve().parents[1]
TARGET_FRAC = 0.005
WARM_UP_STEPS = 12
"""One sample of the optimizer's norms among them."""

RANK = """
    import os, sys, threading, time
    import torch
    import torch.distributed as dist
    from agent.session import Agent
    from trainer.config import TrainConfig
    from trainer.models.gpt import GPT
    from trainer.optim.factory import configure_optimizer

    folder, rank = sys.argv[1], int(os.environ["RANK"])
    torch.set_num_threads(1)
    store = f"file://{folder}/store"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    config = TrainConfig()
    torch.manual_seed(1)
    model = torch.nn.parallel.DistributedDataParallel(GPT(
        layers=config.layers, heads=config.heads, width=config.width,
        block=config.block, dropout=config.dropout,
    ))
    optimizer = configure_optimizer(
        model.module, config.optimizer, lr=config.lr,
        weight_decay=config.weight_decay, momentum=config.momentum,
    )
    data = torch.randint(0, 256, (config.batch_size, config.block + 1))
    agree = torch.zeros(4)

    def thread_ns():
        for thread in threading.enumerate():
            if thread.name == "opsdash-agent":
                clock = time.pthread_getcpuclockid(thread.ident)
                return time.clock_gettime_ns(clock)
        return 0

    def train(agent, step):
        began = time.perf_counter_ns()
        optimizer.zero_grad()
        loss = model(data[:, :-1], data[:, 1:])
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        with agent.wait("step.agree"):
            dist.all_reduce(agree)
        took_ns = time.perf_counter_ns() - began
        agent.step_done(step, loss=loss.item(), lr=config.lr, grad_norm=norm.item(),
                        num_tokens=2 * data.numel(), step_ns=took_ns, data_ns=0)
        return time.perf_counter_ns() - began

    with Agent.attach(f"{folder}/run") as agent:
        agent.watch_optimizer(optimizer, model.module.named_parameters(),
                              every=config.norms_every)
        agent.phase("training")
        step = 0
        print("ready", flush=True)
        for line in sys.stdin:
            times, began_ns = [], time.process_time_ns()
            for _ in range(int(line)):
                step += 1
                times.append(train(agent, step))
            cpu_ns = time.process_time_ns() - began_ns
            print(*times, cpu_ns, agent.emitter.busy_ns, thread_ns(), flush=True)
    dist.destroy_process_group()
"""


class Block(NamedTuple):
    """Some steps of one group, as rank 0 saw them."""

    step_ns: float
    """Mean length of a step."""
    cpu_ns: float
    """Processor time of both ranks, all threads, per step."""
    busy_ns: int
    """What events have cost rank 0 so far, in total."""
    thread_ns: int
    """Processor time of the agent's thread of rank 0 so far."""
    at_ns: int
    """When the block ended."""


class Group:
    """Two ranks that train when they are told to."""

    def __init__(self, ranks: Sequence[subprocess.Popen[str]]) -> None:
        self.ranks = ranks

    def train(self, num_steps: int) -> Block:
        """Train so many steps, and return once all ranks have."""
        for rank in self.ranks:
            print(num_steps, file=rank.stdin, flush=True)
        answers = [rank.stdout.readline().split() for rank in self.ranks]
        *times, _, busy_ns, thread_ns = (int(word) for word in answers[0])
        cpu_ns = sum(int(answer[-3]) for answer in answers) / num_steps
        step_ns = statistics.fmean(times)
        return Block(step_ns, cpu_ns, busy_ns, thread_ns, time.monotonic_ns())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=40)
    parser.add_argument("--steps", type=int, default=10)
    options = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        on = stack.enter_context(group(folder / "on", "on"))
        off = stack.enter_context(group(folder / "off", "off"))
        for side in (on, off):
            side.train(WARM_UP_STEPS)
        return print_table(measure(on, off, options.pairs, options.steps))


@contextmanager
def group(folder: Path, agent: str) -> Iterator[Group]:
    folder.mkdir()
    environment = os.environ | {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "9",
        "WORLD_SIZE": "2",
        "OMP_NUM_THREADS": "1",
        "OPSDASH_AGENT": agent,
        "TORCH_FR_BUFFER_SIZE": "2000",
    }
    command = [sys.executable, "-c", textwrap.dedent(RANK), str(folder)]
    ranks = [
        subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment | {"RANK": str(rank)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    for rank in ranks:
        if rank.stdout.readline() != "ready\n":
            raise SystemExit("a rank did not start")
    yield Group(ranks)
    for rank in ranks:
        rank.stdin.close()
    for rank in ranks:
        rank.wait(timeout=60)
        rank.stdout.close()


def measure(on: Group, off: Group, num_pairs: int, num_steps: int) -> Iterator[Row]:
    first, pairs = on.train(1), []
    for pair in range(num_pairs):
        sides = (on, off) if pair % 2 == 0 else (off, on)
        blocks = {side: side.train(num_steps) for side in sides}
        pairs.append((blocks[on], blocks[off]))
    last = on.train(1)
    peer = f"agent off, {num_pairs} pairs of {num_steps} steps"
    for what, ratios in (
        ("time per step", [one.step_ns / two.step_ns for one, two in pairs]),
        ("processor time per step", [one.cpu_ns / two.cpu_ns for one, two in pairs]),
    ):
        yield paired_row(f"2-rank DDP, agent on: {what}", ratios, peer)
    step_ns = statistics.median(one.step_ns for one, _ in pairs)
    busy_ns = (last.busy_ns - first.busy_ns) / (num_pairs * num_steps + 1)
    yield own_row(
        "the agent's events, rank 0",
        f"{busy_ns / 1e3:.1f} µs of a step of {step_ns / 1e6:.0f} ms",
        busy_ns / step_ns,
    )
    thread_ns, wall_ns = last.thread_ns - first.thread_ns, last.at_ns - first.at_ns
    yield own_row(
        "the agent's thread, rank 0",
        f"{thread_ns / wall_ns * 1e3:.2f} ms of processor time per second",
        thread_ns / wall_ns,
    )


def paired_row(claim: str, ratios: Sequence[float], peer: str) -> Row:
    """Tell a cost; where its interval spans the target, that it cannot be told."""
    cost, (low, high) = statistics.median(ratios) - 1, interval(ratios)
    is_told = high - 1 <= TARGET_FRAC or low - 1 > TARGET_FRAC
    doubt = "" if is_told else "; the machine is too busy to tell"
    return Row(
        claim,
        f"{cost:+.2%} (95 %: {low - 1:+.2%} … {high - 1:+.2%}{doubt})",
        peer,
        target=f"≤ {TARGET_FRAC:.1%}",
        is_met=high - 1 <= TARGET_FRAC if is_told else None,
    )


def own_row(claim: str, ours: str, cost: float) -> Row:
    return Row(
        f"2-rank DDP: {claim}",
        f"{ours}: {cost:.3%}",
        "",
        target=f"≤ {TARGET_FRAC:.1%}",
        is_met=cost <= TARGET_FRAC,
    )


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Return where the median lies, by drawing from the values again."""
    rng = random.Random(1)
    medians = sorted(
        statistics.median(rng.choices(values, k=len(values))) for _ in range(2000)
    )
    return medians[50], medians[-50]


if __name__ == "__main__":
    sys.exit(main())
