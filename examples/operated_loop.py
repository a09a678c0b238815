"""A loop of your own that can be operated: saved, paused and stopped from outside.

All ranks agree on a request every ten steps and carry it out together.

    torchrun --nproc-per-node 2 examples/operated_loop.py runs/operated
    opsdash attach runs/operated
"""

import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist

from agent.probes.agree import agree
from agent.probes.inbox import PendingRequest
from agent.session import Agent

NUM_STEPS = int(os.environ.get("NUM_STEPS", "1000000"))


@dataclass
class Loop:
    """One rank of the loop."""

    agent: Agent
    state_file: Path
    model: torch.nn.Module
    optimizer: torch.optim.Optimizer
    step: int = 0

    def run(self) -> bool:
        """Train; False: somebody asked to stop."""
        self.agent.phase("training")
        while self.step < NUM_STEPS:
            loss = self.train_step()
            self.step += 1
            self.agent.step_done(self.step, loss=loss)
            request = agree(self.agent, self.step, every=10)
            if request is not None and not self.obey(request):
                return False
        return True

    def train_step(self) -> float:
        """Average gradients by hand; who comes late to that is seen."""
        inputs = torch.randn(32, 64)
        loss = (self.model(inputs) - inputs.sum(1, keepdim=True)).square().mean()
        self.optimizer.zero_grad()
        loss.backward()
        if dist.is_initialized():
            with self.agent.wait("gradients"):
                for param in self.model.parameters():
                    dist.all_reduce(param.grad)
                    param.grad /= dist.get_world_size()
        self.optimizer.step()
        return loss.item()

    def obey(self, request: PendingRequest) -> bool:
        """Carry a request out on all ranks; whether training goes on."""
        with self.agent.obeying(request):
            if request.kind in ("checkpoint-now", "stop"):
                self.save()
        return self.pause() if request.kind == "pause" else request.kind != "stop"

    def pause(self) -> bool:
        """Wait for `continue`; other requests are carried out meanwhile."""
        with self.agent.in_phase("paused"):
            while True:
                time.sleep(0.2)
                request = agree(self.agent, self.step, every=1)
                if request is None or request.kind == "pause":
                    continue
                goes_on = self.obey(request)
                if not goes_on or request.kind == "continue":
                    return goes_on

    def save(self) -> None:
        """Save on rank 0 while the others wait; a crash leaves the file of before."""
        with self.agent.in_phase("saving", limit_s=60):
            if not dist.is_initialized() or dist.get_rank() == 0:
                partial = self.state_file.with_suffix(".partial")
                with partial.open("wb") as file:
                    torch.save(self.state(), file)
                    file.flush()
                    os.fsync(file.fileno())
                partial.replace(self.state_file)
            if dist.is_initialized():
                with self.agent.barrier("saved", limit_s=60):
                    dist.barrier()

    def state(self) -> dict[str, object]:
        """Return what a later start needs."""
        return {
            "step": self.step,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def load(self) -> None:
        """Go on where the last start saved, if one did."""
        if self.state_file.exists():
            state = torch.load(self.state_file, weights_only=True)
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.step = state["step"]
            self.agent.begin_at(self.step)


def main(run_dir: Path) -> None:
    if "RANK" in os.environ:
        dist.init_process_group("gloo")
    torch.manual_seed(0)  # the same weights on all ranks
    model = torch.nn.Linear(64, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    with Agent.attach(run_dir, resume_command=[sys.executable, *sys.argv]) as agent:
        agent.accept("checkpoint-now", "pause", "continue", "stop")
        agent.watch_optimizer(optimizer, model.named_parameters())
        loop = Loop(agent, run_dir / "state.pt", model, optimizer)
        loop.load()
        agent.ended("completed" if loop.run() else "stopped")
    if dist.is_initialized():
        dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
