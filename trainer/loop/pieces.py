"""Make the pieces of a training state out of what was configured."""

from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader

from trainer.catalogue import defining
from trainer.checkpoint.state import Progress, Rates, TrainState
from trainer.config import TrainConfig
from trainer.data.loaders import PlannedBatches, num_samples
from trainer.distributed.world import World
from trainer.optim.early_stopping import BestLoss
from trainer.optim.ema import WeightAverage
from trainer.optim.schedules import Schedule, ScheduledRates, TorchRates

_OWN_SECTIONS = ("data", "model", "optimizer")
"""Settings that say nothing about a user's own model, data and optimizer."""
_AMP_DTYPES = {"off": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def own_identity(
    config: TrainConfig,
    model: nn.Module,
    optimizer: Optimizer,
    train_loader: DataLoader[Any],
) -> dict[str, Any]:
    """Return what defines the run of a user's own model, as far as can be told."""
    return defining(config, leave_out=_OWN_SECTIONS) | {
        "model": type(model).__name__,
        "num_params": sum(p.numel() for p in model.parameters()),
        "optimizer": type(optimizer).__name__,
        "num_samples": num_samples(train_loader),
    }


def wrapped(model: nn.Module, world: World, *, static_graph: bool = False) -> nn.Module:
    """Return the model in DDP where there is a group, else the model itself.

    Wrapping gives every rank the weights of rank 0.
    """
    if not world.is_group:
        return model
    devices = [world.device] if world.device.type == "cuda" else None
    return DistributedDataParallel(model, device_ids=devices, static_graph=static_graph)


def chosen_precision(
    amp: str, device: torch.device, *, use_amp: bool
) -> torch.dtype | None:
    """Return autocast's type; None: full precision.

    Args:
        amp: `off`, `bf16` or `fp16`.
        device: Decides where only `use_amp` is said: fp16 on CUDA, else bf16.
        use_amp: Mixed precision, whatever `amp` says.
    """
    if not use_amp or amp != "off":
        return _AMP_DTYPES[amp]
    return torch.float16 if device.type == "cuda" else torch.bfloat16


def total_steps(steps: int, max_epochs: int, train: PlannedBatches) -> int:
    """Return the length of the run that the learning rate is planned for.

    A run of epochs may get shorter or longer when the number of ranks changes.

    Raises:
        ValueError: neither steps nor epochs end it, or there are no samples.
    """
    by_epochs = max_epochs * train.plan.steps_per_epoch
    if not train.plan.num_samples or not (steps or by_epochs):
        raise ValueError("a run needs samples, and a number of steps or epochs")
    return min(n for n in (steps, by_epochs) if n)


def make_state(
    model: nn.Module,
    optimizer: Optimizer,
    scheduler: LRScheduler | None,
    config: TrainConfig,
    device: torch.device,
    *,
    num_steps: int,
    amp_dtype: torch.dtype | None,
) -> TrainState:
    """Return everything that training changes, as it is before the first step.

    Args:
        model: Unwrapped, with the weights that all ranks have.
        optimizer: Over its parameters.
        scheduler: Of torch's; None: as the configuration says.
        config: Says which schedule and whether weights are averaged.
        device: Of the model.
        num_steps: Length of the run.
        amp_dtype: Only fp16 scales the loss.
    """
    average = WeightAverage(model, config.ema_decay) if config.ema_decay else None
    scaler = torch.amp.GradScaler(device.type, enabled=amp_dtype is torch.float16)
    return TrainState(
        model=model,
        optimizer=optimizer,
        rates=_rates(optimizer, scheduler, config, num_steps),
        scaler=scaler,
        average=average,
        progress=Progress(best=BestLoss(patience=config.patience)),
    )


def _rates(
    optimizer: Optimizer,
    scheduler: LRScheduler | None,
    config: TrainConfig,
    num_steps: int,
) -> Rates:
    if scheduler is not None:
        return TorchRates(scheduler)
    schedule = Schedule(
        kind=config.schedule,
        num_steps=num_steps,
        warmup_steps=config.warmup_steps,
        min_frac=config.min_lr_frac,
        decay_frac=config.decay_frac,
    )
    return ScheduledRates(schedule, optimizer)
