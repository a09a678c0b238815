"""Train data-parallel, and survive being killed.

`Trainer` joins the ranks, begins or resumes the run, embeds the agent and runs
the loop; the command line gives it a small GPT, a user their own model. Under
torchrun every rank makes one; alone it works without a process group.
"""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader

from agent.rundir.errors import ConfigMismatchError, RunDirError
from agent.rundir.layout import RunDir
from agent.session import Agent
from trainer.begin import BeforeAttach, Beginning, begun, differs
from trainer.checkpoint.loading import give_up_above, load_together
from trainer.checkpoint.rng import seed_everything
from trainer.checkpoint.saving import Saver
from trainer.checkpoint.state import Progress, Rates, TrainState
from trainer.config import TrainConfig, defining
from trainer.console import say
from trainer.data.loaders import PlannedBatches, planned
from trainer.distributed.agreement import StopFlag, stop_on_signals
from trainer.distributed.barriers import named_barrier
from trainer.distributed.verdict import (
    publish_failure,
    published_failure,
    verdict,
)
from trainer.distributed.world import World, joined
from trainer.loop import Loop, TrainResult
from trainer.optim.early_stopping import BestLoss
from trainer.optim.ema import WeightAverage
from trainer.optim.schedules import Schedule, ScheduledRates, TorchRates
from trainer.stepping import LossFunction, Stepper, default_loss

_OWN_SECTIONS = ("data", "model", "optimizer")
"""Settings that say nothing about a user's own model, data and optimizer."""
_AMP_DTYPES = {"off": None, "bf16": torch.bfloat16, "fp16": torch.float16}


class Trainer:
    """Trains one model on all ranks of a process group, or alone."""

    def __init__(  # noqa: PLR0913 - each is a piece that only the user has
        self,
        *,
        model: nn.Module,
        optimizer: Optimizer,
        train_loader: DataLoader[Any],
        val_loader: DataLoader[Any] | None = None,
        max_epochs: int | None = None,
        use_amp: bool = False,
        run_dir: str | Path = "runs/ddp",
        config: TrainConfig | None = None,
        scheduler: LRScheduler | None = None,
        loss_function: LossFunction = default_loss,
        identity: dict[str, Any] | None = None,
        command: Callable[[World], list[str]] | None = None,
    ) -> None:
        """Put the pieces together; nothing is started yet.

        Args:
            model: Not wrapped. Called with a batch it returns the loss, or
                `loss_function` makes one of what it returns.
            optimizer: Over the model's parameters.
            train_loader: Its batch size is per rank; its sampler only tells
                whether the order is shuffled, as every rank gets its own share.
            val_loader: Held-out data; None: nothing is evaluated.
            max_epochs: None: as the configuration says.
            use_amp: Mixed precision: fp16 on CUDA, bf16 elsewhere.
            run_dir: Made if missing, resumed if it is this very run.
            config: None: constant learning rate, by epochs.
            scheduler: Of torch's; None: as the configuration says.
            loss_function: Given the model and a batch it returns the mean loss.
            identity: What must not change between two starts; None: made of
                the configuration, the model, the optimizer and the data.
            command: Returns what starts the next attempt, with `{checkpoint}`
                for a checkpoint's name; None: a dashboard cannot resume it.
        """
        if config is None:
            config = TrainConfig(
                steps=0, max_epochs=max_epochs or 1, schedule="constant", warmup_steps=0
            )
        self.config = config
        self.model, self.optimizer = model, optimizer
        self.train_loader, self.val_loader = train_loader, val_loader
        self.max_epochs = config.max_epochs if max_epochs is None else max_epochs
        self.use_amp = use_amp
        self.run_dir = Path(run_dir)
        self.scheduler, self.loss_function = scheduler, loss_function
        self.identity = identity or self._own_identity()
        self.command = command

    def train(self) -> TrainResult:
        """Train to the end, or until somebody asks to stop.

        Raises:
            RunDirError: the start was refused, or a rank failed; the same
                error on every rank.
        """
        config, early = self.config, BeforeAttach()
        with (
            joined(
                backend=config.backend,
                device=config.device,
                timeout_s=config.timeout_s,
                control_timeout_s=config.control_timeout_s,
            ) as world,
            _same_error_everywhere(world),
            begun(
                world,
                self.run_dir,
                config,
                self.identity,
                resume_command=self.command(world) if self.command else None,
                early=early,
            ) as beginning,
            self._attached(world, beginning, early) as agent,
        ):
            loop = self._loop(world, agent, beginning)
            with stop_on_signals() as loop.stop:
                result = loop.run()
                named_barrier(world, "run.end", limit_s=config.save_limit_s)
            agent.ended(result.reason)
            return result

    @contextlib.contextmanager
    def _attached(
        self, world: World, beginning: Beginning, early: BeforeAttach
    ) -> Iterator[Agent]:
        """Embed the agent, and tell it what happened before it was there."""
        agent = Agent.attach(
            self.run_dir,
            rank=world.rank,
            world_size=world.world_size,
            attempt=beginning.attempt,
        )
        with agent:
            world.watch = agent
            agent.begin_at(beginning.decision.step)
            for event_type, fields in early.events:
                agent.emit(event_type, **fields)
            yield agent

    def _loop(self, world: World, agent: Agent, beginning: Beginning) -> Loop:
        """Bring every rank to where training begins or goes on."""
        config, run = self.config, RunDir(self.run_dir.absolute())
        with verdict(world, "run.check", limit_s=config.load_limit_s):
            difference = differs(beginning, self.identity)
            if difference is not None:
                raise ConfigMismatchError(f"rank {world.rank}: {difference}")
        seed_everything(config.seed, world.rank)
        self.model.to(world.device)
        train = self._planned(self.train_loader, world, shuffle=None)
        num_steps = self._num_steps(train)
        # First of all, as it gives every rank the weights of rank 0.
        model = wrapped(self.model, world, static_graph=config.static_graph)
        state = self._state(world, num_steps)
        self._start_from(world, run, agent, beginning, state)
        stepper = Stepper(
            world=world,
            agent=agent,
            state=state,
            wrapped=model,
            loss_function=self.loss_function,
            clip=config.clip,
            amp_dtype=self._amp_dtype(world),
        )
        stepper.rehearse(train.first_batch())
        agent.watch_optimizer(
            self.optimizer, self.model.named_parameters(), every=config.norms_every
        )
        return Loop(
            world=world,
            agent=agent,
            config=config,
            state=state,
            stepper=stepper,
            saver=Saver(
                world=world,
                run=run,
                agent=agent,
                run_id=beginning.run_id,
                attempt=beginning.attempt,
                keep=config.keep,
                limit_s=config.save_limit_s,
                parent_digest=beginning.decision.digest,
            ),
            train=train,
            val=self._held_out(world),
            num_steps=num_steps,
            stop=StopFlag(),
            saved_step=beginning.decision.number if beginning.decision.name else None,
        )

    def _start_from(
        self,
        world: World,
        run: RunDir,
        agent: Agent,
        beginning: Beginning,
        state: TrainState,
    ) -> None:
        """Restore what was decided, give up what lies above it, and say so."""
        decision = beginning.decision
        remarks = list(decision.remarks)
        if decision.name is not None:
            remarks += load_together(world, run, agent, decision, state, self.config)
            remarks.append(f"resumed from `{decision.name}` at step {decision.step}")
        aside = give_up_above(
            world,
            run,
            agent,
            decision,
            attempt=beginning.attempt,
            limit_s=self.config.load_limit_s,
        )
        remarks += [f"checkpoint `{name}` is superseded" for name in aside]
        if world.is_main:
            for remark in remarks:
                say(remark)

    def _state(self, world: World, num_steps: int) -> TrainState:
        config = self.config
        average = WeightAverage(self.model, config.ema_decay)
        scales = self._amp_dtype(world) is torch.float16
        return TrainState(
            model=self.model,
            optimizer=self.optimizer,
            rates=self._rates(num_steps),
            scaler=torch.amp.GradScaler(world.device.type, enabled=scales),
            average=average if config.ema_decay else None,
            progress=Progress(best=BestLoss(patience=config.patience)),
        )

    def _rates(self, num_steps: int) -> Rates:
        if self.scheduler is not None:
            return TorchRates(self.scheduler)
        schedule = Schedule(
            kind=self.config.schedule,
            num_steps=num_steps,
            warmup_steps=self.config.warmup_steps,
            min_frac=self.config.min_lr_frac,
            decay_frac=self.config.decay_frac,
        )
        return ScheduledRates(schedule, self.optimizer)

    def _planned(
        self, loader: DataLoader[Any], world: World, *, shuffle: bool | None
    ) -> PlannedBatches:
        return planned(
            loader,
            world,
            accumulate=self.config.accumulate if shuffle is None else 1,
            seed=self.config.seed,
            shuffle=shuffle,
        )

    def _held_out(self, world: World) -> PlannedBatches | None:
        if self.val_loader is None:
            return None
        return self._planned(self.val_loader, world, shuffle=False)

    def _num_steps(self, train: PlannedBatches) -> int:
        by_epochs = self.max_epochs * train.plan.steps_per_epoch
        return min(n for n in (self.config.steps, by_epochs) if n)

    def _amp_dtype(self, world: World) -> torch.dtype | None:
        if not self.use_amp:
            return _AMP_DTYPES[self.config.amp]
        return torch.float16 if world.device.type == "cuda" else torch.bfloat16

    def _own_identity(self) -> dict[str, Any]:
        settings = defining(self.config, leave_out=_OWN_SECTIONS)
        num_params = sum(p.numel() for p in self.model.parameters())
        return settings | {
            "model": type(self.model).__name__,
            "num_params": num_params,
            "optimizer": type(self.optimizer).__name__,
            "num_samples": len(self.train_loader.dataset),  # type: ignore[arg-type]  # Dataset declares no length
        }


def wrapped(model: nn.Module, world: World, *, static_graph: bool = False) -> nn.Module:
    """Return the model in DDP where there is a group, else the model itself."""
    if not world.is_group:
        return model
    devices = [world.device] if world.device.type == "cuda" else None
    return DistributedDataParallel(model, device_ids=devices, static_graph=static_graph)


@contextlib.contextmanager
def _same_error_everywhere(world: World) -> Iterator[None]:
    """Raise what the first rank to fail met, also where only its absence is seen."""
    try:
        yield
    except RunDirError as error:
        publish_failure(world, error)
        raise
    except RuntimeError as error:
        found = published_failure(world)
        if found is not None:
            raise found from error
        publish_failure(world, error)
        raise
    except BaseException as error:
        publish_failure(world, error)
        raise
