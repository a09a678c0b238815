"""What watching costs a training run: the demo model on two ranks, agent on and off.

Two process groups train the same model, one with the agent, one without. They
take turns of a few steps, in the order on-off-off-on, and whoever waits is
stopped with all its threads, so that a machine that changes its pace slows both;
each pair of neighbouring blocks gives one ratio of step times. The mean of the
middle four fifths of the ratios is told, with its interval from a bootstrap: a
median would pass over the norms, which are in every fifth block.

Beside it stands what the agent does, timed call by call in the same steps and
added up with its thread's processor time as if nothing of that ran beside the
training: an upper bound that no other process can hide or imitate. Its thread
looks around after each stop, which is oftener than in a run.

    python benchmarks/overhead.py [--minutes 6] [--steps 10]
"""

import argparse
import os
import random
import signal
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
LEAST_PAIRS = 10
WIDEST_FRAC = 0.02
"""An interval that is wider tells of the machine, whatever lies in it."""

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

    clock, spent = time.perf_counter_ns, {"calls": 0, "norms": 0}

    def thread_ns():
        for thread in threading.enumerate():
            if thread.name == "opsdash-agent":
                of_thread = time.pthread_getcpuclockid(thread.ident)
                return time.clock_gettime_ns(of_thread)
        return 0

    def timed(hook):
        def call(*args):
            began = clock()
            hook(*args)
            spent["norms"] += clock() - began
        return call

    def train(agent, step):
        began = clock()
        optimizer.zero_grad()
        loss = model(data[:, :-1], data[:, 1:])
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        entered = clock()
        wait = agent.wait("step.agree")
        wait.__enter__()
        spent["calls"] += clock() - entered
        dist.all_reduce(agree)
        left = clock()
        wait.__exit__(None, None, None)
        took_ns = clock() - began
        agent.step_done(step, loss=loss.item(), lr=config.lr, grad_norm=norm.item(),
                        num_tokens=2 * data.numel(), step_ns=took_ns, data_ns=0)
        spent["calls"] += clock() - left
        return clock() - began

    with Agent.attach(f"{folder}/run") as agent:
        agent.watch_optimizer(optimizer, model.module.named_parameters(),
                              every=config.norms_every)
        for hooks in (optimizer._optimizer_step_pre_hooks,
                      optimizer._optimizer_step_post_hooks):
            hooks.update({key: timed(hook) for key, hook in hooks.items()})
        agent.phase("training")
        step = 0
        print("ready", config.norms_every, flush=True)
        for line in sys.stdin:
            times, cpu_ns, in_thread_ns = [], time.process_time_ns(), thread_ns()
            spent.update(calls=0, norms=0)
            for _ in range(int(line)):
                step += 1
                times.append(train(agent, step))
            cpu_ns = time.process_time_ns() - cpu_ns
            in_thread_ns = thread_ns() - in_thread_ns
            print(sum(times), cpu_ns, spent["calls"], spent["norms"], in_thread_ns,
                  flush=True)
    dist.destroy_process_group()
"""


class Block(NamedTuple):
    """Some steps of one group, per step; what is the agent's, of rank 0."""

    step_ns: float
    """As rank 0 saw it."""
    cpu_ns: float
    """Processor time of both ranks, all threads."""
    calls_ns: float
    """In the calls that the training loop makes."""
    norms_ns: float
    """In the hooks of the optimizer's step."""
    thread_ns: float
    """Processor time of the agent's thread."""


class Group:
    """Two ranks that train when they are told to, and are stopped until then."""

    def __init__(
        self, ranks: Sequence[subprocess.Popen[str]], norms_every: int
    ) -> None:
        self.ranks = ranks
        self.norms_every = norms_every
        self.signal(signal.SIGSTOP)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to all ranks."""
        for rank in self.ranks:
            rank.send_signal(number)

    def train(self, num_steps: int) -> Block:
        """Train so many steps, and return once all ranks have."""
        self.signal(signal.SIGCONT)
        for rank in self.ranks:
            print(num_steps, file=rank.stdin, flush=True)
        answers = [
            [int(word) / num_steps for word in rank.stdout.readline().split()]
            for rank in self.ranks
        ]
        self.signal(signal.SIGSTOP)
        step_ns, _, *of_the_agent = answers[0]
        return Block(step_ns, sum(answer[1] for answer in answers), *of_the_agent)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=6)
    parser.add_argument("--steps", type=int, default=10, help="of a block")
    options = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        on = stack.enter_context(group(folder / "on", "on"))
        off = stack.enter_context(group(folder / "off", "off"))
        for side in (on, off):
            side.train(2 * on.norms_every)
        pairs = measure(on, off, options.minutes * 60, options.steps)
        return print_table(rows(pairs, options.steps))


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
    said = [rank.stdout.readline().split() for rank in ranks]
    if any(words[:1] != ["ready"] for words in said):
        raise SystemExit("a rank did not start")
    one = Group(ranks, int(said[0][1]))
    yield one
    one.signal(signal.SIGCONT)
    for rank in ranks:
        rank.stdin.close()
    for rank in ranks:
        rank.wait(timeout=60)
        rank.stdout.close()


def measure(
    on: Group, off: Group, budget_s: float, num_steps: int
) -> list[tuple[Block, Block]]:
    pairs: list[tuple[Block, Block]] = []
    until = time.monotonic() + budget_s
    while len(pairs) < LEAST_PAIRS or time.monotonic() < until:
        sides = (on, off) if len(pairs) % 2 == 0 else (off, on)
        blocks = {side: side.train(num_steps) for side in sides}
        pairs.append((blocks[on], blocks[off]))
    return pairs


def rows(pairs: Sequence[tuple[Block, Block]], num_steps: int) -> Iterator[Row]:
    peer = f"agent off, {len(pairs)} pairs of {num_steps} steps"
    for what, ratios in (
        ("time per step", [one.step_ns / two.step_ns for one, two in pairs]),
        ("processor time per step", [one.cpu_ns / two.cpu_ns for one, two in pairs]),
    ):
        yield paired_row(f"2-rank DDP, agent on: {what}", ratios, peer)
    blocks = [block for block, _ in pairs]
    step_ns = statistics.fmean(block.step_ns for block in blocks)
    calls_ns = statistics.fmean(block.calls_ns for block in blocks)
    norms_ns = statistics.fmean(block.norms_ns for block in blocks)
    thread_ns = statistics.fmean(block.thread_ns for block in blocks)
    for claim, cost_ns in (
        ("the agent's calls", calls_ns),
        ("the optimizer's norms", norms_ns),
        ("the agent's thread", thread_ns),
        ("all of it added up", calls_ns + norms_ns + thread_ns),
    ):
        yield own_row(claim, cost_ns, step_ns)


def paired_row(claim: str, ratios: Sequence[float], peer: str) -> Row:
    """Tell a cost; where its interval spans the target, that it cannot be told."""
    cost, (low, high) = middle_mean(ratios) - 1, interval(ratios)
    is_apart = high - 1 <= TARGET_FRAC or low - 1 > TARGET_FRAC
    is_told = is_apart and high - low <= WIDEST_FRAC
    doubt = "" if is_told else "; the machine is too busy to tell"
    return Row(
        claim,
        f"{cost:+.2%} (95 %: {low - 1:+.2%} … {high - 1:+.2%}{doubt})",
        peer,
        target=f"≤ {TARGET_FRAC:.1%}",
        is_met=high - 1 <= TARGET_FRAC if is_told else None,
    )


def own_row(claim: str, cost_ns: float, step_ns: float) -> Row:
    return Row(
        f"2-rank DDP, rank 0: {claim}",
        f"{cost_ns / 1e3:.1f} µs of a step of {step_ns / 1e6:.1f} ms: "
        f"{cost_ns / step_ns:.3%}",
        "",
        target=f"≤ {TARGET_FRAC:.1%}",
        is_met=cost_ns <= TARGET_FRAC * step_ns,
    )


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Return where the middle mean lies, by drawing from the values again."""
    rng = random.Random(1)
    means = sorted(middle_mean(rng.choices(values, k=len(values))) for _ in range(2000))
    return means[50], means[-50]


def middle_mean(values: Sequence[float]) -> float:
    """Return the mean of the middle four fifths."""
    cut = len(values) // 10
    return statistics.fmean(sorted(values)[cut : len(values) - cut])


if __name__ == "__main__":
    sys.exit(main())
