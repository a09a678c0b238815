"""The agent in a Transformers run: one callback.

pip install transformers accelerate
python examples/transformers_run.py runs/transformers
"""

import sys

import torch
from transformers import Trainer, TrainingArguments

from agent.integrations.transformers import RunDirCallback


class Regression(torch.nn.Module):
    """Learns to add."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(64, 1)

    def forward(
        self, inputs: torch.Tensor, labels: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """Return the loss, which the trainer logs and the callback tells."""
        return {"loss": (self.layer(inputs) - labels).square().mean()}


def main(run_dir: str) -> None:
    samples = [torch.randn(64) for _ in range(4096)]
    data = [{"inputs": sample, "labels": sample.sum()} for sample in samples]
    trainer = Trainer(
        model=Regression(),
        args=TrainingArguments(
            output_dir=f"{run_dir}-checkpoints",
            num_train_epochs=10,
            logging_steps=10,
            report_to=[],
        ),
        train_dataset=data,
        callbacks=[RunDirCallback(run_dir, resume_command=[sys.executable, *sys.argv])],
    )
    trainer.train()


if __name__ == "__main__":
    main(sys.argv[1])
