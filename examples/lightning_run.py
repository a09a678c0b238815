"""The agent in a Lightning run: one callback.

pip install lightning
python examples/lightning_run.py runs/lightning
"""

import sys

import lightning.pytorch as lightning
import torch
from torch.utils.data import DataLoader, TensorDataset

from agent.integrations.lightning import RunDirCallback


class Regression(lightning.LightningModule):
    """Learns to add."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(64, 1)

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        """Return the loss, which the callback tells."""
        del batch_idx
        inputs, targets = batch
        return (self.layer(inputs) - targets).square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return what the callback measures."""
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


def main(run_dir: str) -> None:
    inputs = torch.randn(4096, 64)
    data = TensorDataset(inputs, inputs.sum(1, keepdim=True))
    command = [sys.executable, *sys.argv]
    trainer = lightning.Trainer(
        max_epochs=100,
        logger=False,
        callbacks=[RunDirCallback(run_dir, resume_command=command)],
    )
    trainer.fit(Regression(), DataLoader(data, batch_size=32, shuffle=True))


if __name__ == "__main__":
    main(sys.argv[1])
