"""A user's own small model and data, and runs of the Trainer on them."""

from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from agent.rundir.events import decode_lines
from agent.rundir.layout import RunDir, rank_stem
from trainer.config import TrainConfig
from trainer.ddp import Trainer

QUIET = {"log_every": 0, "norms_every": 1000, "schedule": "constant", "warmup_steps": 0}
NUM_SAMPLES = 22


class Line(nn.Module):
    """Linear regression that returns its loss."""

    def __init__(self, *, dropout=0.0):
        super().__init__()
        self.drop = nn.Dropout(dropout)
        self.line = nn.Linear(3, 1)

    def forward(self, inputs, targets):
        return (self.line(self.drop(inputs)) - targets).square().mean()


def data(num_samples=NUM_SAMPLES, seed=7):
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(num_samples, 3, generator=generator)
    targets = inputs @ torch.tensor([[1.0], [-2.0], [0.5]]) + 0.1
    return TensorDataset(inputs, targets)


def make(
    run_dir,
    *,
    model=None,
    dataset=None,
    batch_size=4,
    optimizer=None,
    shuffle=True,
    **settings,
):
    """Return a Trainer; every rank makes the same one."""
    torch.manual_seed(0)
    model = model or Line()
    optimizer = optimizer or torch.optim.SGD(model.parameters(), lr=0.1)
    dataset = dataset or data()
    config = {
        "min_lr_frac": 0.0,
        "steps": 0,
        "max_epochs": 2,
        "save_every": 0,
        "eval_every": 0,
        **QUIET,
        **settings,
    }
    return Trainer(
        model=model,
        optimizer=optimizer,
        train_loader=DataLoader(dataset, batch_size=batch_size, shuffle=shuffle),
        val_loader=DataLoader(data(8, seed=8), batch_size=batch_size),
        run_dir=run_dir,
        config=TrainConfig(**config),
    )


def weights(trainer):
    """Return a model's weights as one list."""
    parameters = [p.detach().flatten() for p in trainer.model.parameters()]
    return torch.cat(parameters).tolist()


def train(run_dir, settings):
    """Train on this rank; return step, loss and weights."""
    trainer = make(Path(run_dir), **settings)
    result = trainer.train()
    return result.step, result.loss, weights(trainer), result.reason


def events(run_dir, kind, *, rank=0, attempt=1):
    """Return one rank's events of a kind."""
    path = RunDir(Path(run_dir)).telemetry_file(attempt, rank_stem(rank))
    return [e for e in decode_lines(path.read_bytes()) if isinstance(e, kind)]
