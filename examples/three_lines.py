"""A plain training loop with the agent in it: three lines, marked below.

python examples/three_lines.py runs/plain
torchrun --nproc-per-node 2 examples/three_lines.py runs/plain
opsdash attach runs/plain
"""

import os
import sys

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from agent.session import Agent

NUM_STEPS = int(os.environ.get("NUM_STEPS", "300"))


def main(run_dir: str) -> torch.nn.Module:
    model: torch.nn.Module = torch.nn.Sequential(
        torch.nn.Linear(64, 256), torch.nn.GELU(), torch.nn.Linear(256, 1)
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    if "RANK" in os.environ:
        dist.init_process_group("gloo")
        model = DistributedDataParallel(model)

    with Agent.attach(run_dir) as agent:  # 1: before training, on every rank
        agent.watch_optimizer(optimizer, model.named_parameters())  # 2: once
        agent.phase("training")
        for step in range(1, NUM_STEPS + 1):
            inputs = torch.randn(32, 64)
            loss = (model(inputs) - inputs.sum(1, keepdim=True)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            agent.step_done(step, loss=loss.item(), lr=1e-3)  # 3: every step

    if dist.is_initialized():
        dist.destroy_process_group()
    return model


if __name__ == "__main__":
    # The model stays until Python ends: torch 2.13 can hang for ever where one that is
    # data-parallel goes at the moment in which gloo lets go of the last gradients.
    model = main(sys.argv[1])
