"""What watching costs a training run: the demo model on two ranks, agent on and off.

One process group trains the demo model, in turns of some steps with the agent and
without it, in the order on-off-off-on, so that a machine that changes its pace
slows both. It is the same two processes: of two that run the same code one is up
to a percent slower than the other, for as long as they live, which is more than
there is to measure. Without the agent the training loop calls one that is
switched off (`OPSDASH_AGENT=off`), the optimizer has no hooks, and the agent's
thread waits at a gate; with it the thread goes on where it was stopped. The
groups are made anew a few times.

Four neighbouring blocks give one ratio, of the two with the agent to the two
without. The mean of the middle four fifths of the ratios is told, with its interval
from a bootstrap. Beside it stands what is found between the two blocks that are
both without the agent: as much is the procedure's own doing.

Then what the agent does, timed call by call in the same steps, less what the
same lines take with the agent off, and added up with its thread's processor time
as if nothing of that ran beside the training: an upper bound that no other
process can hide or imitate.

    python benchmarks/overhead.py [--minutes 6] [--steps 10] [--groups 3]
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
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.table import Row, print_table

ROOT = Path(__file__).resolve().parents[1]
TARGET_FRAC = 0.005
NORMS_FRAC = 0.0005
LEAST_TURNS = 5
WARM_UP_STEPS = 100
"""After so many the agent samples collectives rarely, and nothing is new."""
WIDEST_FRAC = 0.02
"""An interval that is wider tells of the machine, whatever lies in it."""

RANK = """
    import os, sys, threading, time
    import torch
    import torch.distributed as dist
    from agent.probes.pulse import Duty
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
    gate = threading.Event()
    hooks = optimizer._optimizer_step_pre_hooks, optimizer._optimizer_step_post_hooks

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

    os.environ["OPSDASH_AGENT"] = "off"
    resting = Agent.attach(f"{folder}/run")
    os.environ["OPSDASH_AGENT"] = "on"
    with Agent.attach(f"{folder}/run") as watching:
        watching._background._pulse._duties.insert(0, Duty("gate", gate.wait, every=1))
        watching.watch_optimizer(optimizer, model.module.named_parameters(),
                                 every=config.norms_every)
        ours = [{key: timed(hook) for key, hook in of.items()} for of in hooks]
        watching.phase("training")
        print("ready", config.norms_every, flush=True)
        step = 0
        for line in sys.stdin:
            is_on, num_steps = map(int, line.split())
            agent = watching if is_on else resting
            for mine, of in zip(ours, hooks):
                of.clear()
                of.update(mine if is_on else {})
            (gate.set if is_on else gate.clear)()
            # The pace of its own steps is all that the agent should see.
            watching._activity._stepped_ns = 0
            times, cpu_ns, in_thread_ns = [], time.process_time_ns(), thread_ns()
            spent.update(calls=0, norms=0)
            for _ in range(num_steps):
                step += 1
                times.append(train(agent, step))
            cpu_ns = time.process_time_ns() - cpu_ns
            in_thread_ns = thread_ns() - in_thread_ns
            print(sum(times), cpu_ns, spent["calls"], spent["norms"], in_thread_ns,
                  flush=True)
        gate.set()
    dist.destroy_process_group()
"""


class Block(NamedTuple):
    """Some steps, per step; what is the agent's, of rank 0."""

    step_ns: float
    """As rank 0 saw it."""
    cpu_ns: float
    """Processor time of both ranks, all threads."""
    calls_ns: float
    """In the lines of the training loop that call the agent."""
    norms_ns: float
    """In the hooks of the optimizer's step."""
    thread_ns: float
    """Processor time of the agent's thread."""


class Group:
    """Two ranks that train when they are told to."""

    def __init__(self, ranks: Sequence[subprocess.Popen[str]]) -> None:
        self.ranks = ranks

    def train(self, num_steps: int, *, is_on: bool) -> Block:
        """Train so many steps, and return once all ranks have."""
        for rank in self.ranks:
            print(int(is_on), num_steps, file=rank.stdin, flush=True)
        answers = [
            [int(word) / num_steps for word in rank.stdout.readline().split()]
            for rank in self.ranks
        ]
        step_ns, _, *of_the_agent = answers[0]
        return Block(step_ns, sum(answer[1] for answer in answers), *of_the_agent)


class Turn(NamedTuple):
    """Four blocks in a row, so that a steady drift takes from both sides alike."""

    on: Block
    off: Block
    also_off: Block
    also_on: Block


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=6)
    parser.add_argument("--steps", type=int, default=10, help="of a block")
    parser.add_argument("--groups", type=int, default=3, help="one after the other")
    options = parser.parse_args()
    turns: list[Turn] = []
    for _ in range(options.groups):
        with tempfile.TemporaryDirectory() as folder, group(Path(folder)) as one:
            budget_s = options.minutes * 60 / options.groups
            turns += take_turns(one, budget_s, options.steps)
    return print_table(rows(turns, options.steps))


@contextmanager
def group(folder: Path) -> Iterator[Group]:
    environment = os.environ | {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "9",
        "WORLD_SIZE": "2",
        "OMP_NUM_THREADS": "1",
        "TORCH_FR_BUFFER_SIZE": "256",  # as our launcher does
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
    one = Group(ranks)
    one.train(WARM_UP_STEPS, is_on=True)
    yield one
    for rank in ranks:
        rank.stdin.close()
    for rank in ranks:
        rank.wait(timeout=60)
        rank.stdout.close()


def take_turns(one: Group, budget_s: float, num_steps: int) -> Iterator[Turn]:
    """Yield turns until the time is over."""
    until, num_turns = time.monotonic() + budget_s, 0
    while time.monotonic() < until or num_turns < LEAST_TURNS:
        num_turns += 1
        sides = (True, False, False, True)
        yield Turn(*(one.train(num_steps, is_on=is_on) for is_on in sides))


def rows(turns: Sequence[Turn], num_steps: int) -> Iterator[Row]:
    for what, of in (
        ("time per step", lambda block: block.step_ns),
        ("processor time per step", lambda block: block.cpu_ns),
    ):
        peer = f"agent off, {len(turns)} times 2 blocks of {num_steps} steps"
        ratios = [
            (of(turn.on) + of(turn.also_on)) / (of(turn.off) + of(turn.also_off))
            for turn in turns
        ]
        yield paired_row(f"2-rank DDP, agent on: {what}", ratios, peer)
        # Which of the two came first takes turns too.
        idle = [
            (of(turn.off) / of(turn.also_off)) ** (-1 if number % 2 else 1)
            for number, turn in enumerate(turns)
        ]
        peer = f"agent off, {len(turns)} blocks of {num_steps} steps"
        yield paired_row(f"2-rank DDP, agent off: {what}", idle, peer, is_own=False)
    with_agent = [block for turn in turns for block in (turn.on, turn.also_on)]
    without = [block for turn in turns for block in (turn.off, turn.also_off)]
    step_ns = mean_of(without, lambda block: block.step_ns)
    calls_ns = mean_of(with_agent, lambda block: block.calls_ns) - mean_of(
        without, lambda block: block.calls_ns
    )
    norms_ns = mean_of(with_agent, lambda block: block.norms_ns)
    thread_ns = mean_of(with_agent, lambda block: block.thread_ns)
    for claim, cost_ns, limit_frac in (
        ("the agent's calls", calls_ns, TARGET_FRAC),
        ("the optimizer's norms", norms_ns, NORMS_FRAC),
        ("the agent's thread", thread_ns, TARGET_FRAC),
        ("all of it added up", calls_ns + norms_ns + thread_ns, TARGET_FRAC),
    ):
        yield own_row(claim, cost_ns, step_ns, limit_frac)


def mean_of(blocks: Iterable[Block], of: Callable[[Block], float]) -> float:
    return statistics.fmean(map(of, blocks))


def paired_row(
    claim: str, ratios: Sequence[float], peer: str, *, is_own: bool = True
) -> Row:
    """Tell a cost; where its interval spans the target, that it cannot be told."""
    cost, (low, high) = middle_mean(ratios) - 1, interval(ratios)
    is_apart = high - 1 <= TARGET_FRAC or low - 1 > TARGET_FRAC
    is_told = is_apart and high - low <= WIDEST_FRAC
    doubt = "" if is_told else "; the machine is too busy to tell"
    return Row(
        claim,
        f"{cost:+.2%} (95 %: {low - 1:+.2%} … {high - 1:+.2%}{doubt})",
        peer,
        target=f"≤ {TARGET_FRAC:.1%}" if is_own else "",
        is_met=high - 1 <= TARGET_FRAC if is_told and is_own else None,
    )


def own_row(claim: str, cost_ns: float, step_ns: float, limit_frac: float) -> Row:
    return Row(
        f"2-rank DDP, rank 0: {claim}",
        f"{cost_ns / 1e3:.1f} µs of a step of {step_ns / 1e6:.1f} ms: "
        f"{cost_ns / step_ns:.3%}",
        "",
        target=f"≤ {limit_frac:.2%}",
        is_met=cost_ns <= limit_frac * step_ns,
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
