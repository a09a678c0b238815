"""Be one rank of a run that trains the small GPT on Python's own source text."""

import os
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from trainer.catalogue import defining
from trainer.config import TrainConfig
from trainer.console import say
from trainer.data.corpus import ByteWindows, Corpus, read_corpus
from trainer.ddp import Trainer
from trainer.distributed.parent import end_with_launcher
from trainer.loop.begin import resume_command
from trainer.models.gpt import GPT
from trainer.optim.factory import configure_optimizer
from trainer.settings import UsageError, UsageParser, add_settings, read_config


def main(arguments: list[str]) -> int:
    """Run `python -m trainer ddp RUN_DIR …` and return the exit code.

    Under torchrun a stop that was asked for is a success, because torchrun
    would restart a worker that says otherwise; the launcher knows better. Alone
    the process tells by its exit code which signal ended it.
    """
    parser = UsageParser(prog="python -m trainer ddp", description=__doc__)
    parser.add_argument("run_dir", type=Path, metavar="RUN_DIR")
    add_settings(parser)
    known = parser.parse(arguments)
    end_with_launcher()
    config = read_config(vars(known), os.environ, known.config)
    trainer = make_trainer(known.run_dir, config)
    result = trainer.train()
    if os.environ.get("RANK", "0") == "0":
        loss = "" if result.loss is None else f", held-out loss {result.loss:.4f}"
        say(
            f"{result.reason} at step {result.step}{loss}, "
            f"last checkpoint `{result.checkpoint}`"
        )
    if result.reason == "stopped" and "RANK" not in os.environ:
        return 128 + (result.signum or 0)
    return 0


def make_trainer(run_dir: Path, config: TrainConfig) -> Trainer:
    """Return a trainer of the small GPT, the same on every rank.

    Raises:
        UsageError: the text is too short for the windows.
    """
    corpus = read_corpus(config.corpus_bytes, config.val_frac)
    train, val = (_loader(text, config) for text in (corpus.train, corpus.val))
    torch.manual_seed(config.seed)
    model = GPT(
        layers=config.layers,
        heads=config.heads,
        width=config.width,
        block=config.block,
        dropout=config.dropout,
    )
    optimizer = configure_optimizer(
        model,
        config.optimizer,
        lr=config.lr,
        weight_decay=config.weight_decay,
        momentum=config.momentum,
    )
    return Trainer(
        model=model,
        optimizer=optimizer,
        train_loader=train,
        val_loader=val,
        run_dir=run_dir,
        config=config,
        identity=_identity(config, corpus),
        command=lambda world: resume_command(run_dir, config, world),
    )


def _loader(text: torch.Tensor, config: TrainConfig) -> DataLoader[Any]:
    windows = ByteWindows(text, config.block)
    if not len(windows):
        raise UsageError(
            f"{len(text)} bytes of text are less than one window of {config.block}",
            hint=f"--corpus-bytes {config.block * 1000}",
        )
    return DataLoader(
        windows,
        batch_size=config.batch_size,
        num_workers=config.num_workers,
        shuffle=True,
    )


def _identity(config: TrainConfig, corpus: Corpus) -> dict[str, Any]:
    """Return what must not change between two starts, the data included."""
    return defining(config) | {"data_digest": corpus.digest}
