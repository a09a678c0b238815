"""Train data-parallel, and survive being killed.

`Trainer` joins the ranks, begins or resumes the run, embeds the agent and runs
the loop; the command line gives it a small GPT, a user their own model. Under
torchrun every rank makes one; alone it works without a process group.
"""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader

from agent.rundir.errors import ConfigMismatchError, RunDirError
from agent.rundir.layout import RunDir
from agent.session import Agent
from trainer.checkpoint.loading import start_from
from trainer.checkpoint.plain import require_loadable
from trainer.checkpoint.rng import seed_everything
from trainer.checkpoint.saving import Saver
from trainer.checkpoint.state import TrainState, capture
from trainer.config import TrainConfig
from trainer.console import say
from trainer.data.loaders import PlannedBatches, num_samples, planned
from trainer.distributed.agreement import stop_on_signals
from trainer.distributed.barriers import named_barrier
from trainer.distributed.verdict import (
    publish_failure,
    published_failure,
    verdict,
)
from trainer.distributed.world import World, joined
from trainer.loop.begin import BeforeAttach, Beginning, begun, differs
from trainer.loop.held_out import HeldOut
from trainer.loop.orders import KINDS as REQUEST_KINDS
from trainer.loop.pieces import (
    chosen_precision,
    make_state,
    own_identity,
    total_steps,
    wrapped,
)
from trainer.loop.saves import Saves
from trainer.loop.stepping import LossFunction, Stepper, default_loss
from trainer.loop.steps import Loop, TrainResult
from trainer.settings import check_settings


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

        Raises:
            ValueError: the configuration needs held-out data, and there is none.
            TypeError: a position in the data could not be found again.
            UsageError: a setting has a value that it does not take.
        """
        if config is None:
            config = TrainConfig(
                steps=0, max_epochs=max_epochs or 1, schedule="constant", warmup_steps=0
            )
        check_settings(config)
        if config.stop_epoch and val_loader is None:
            raise ValueError("a second stage needs held-out data to be judged by")
        self.config = config
        self.model, self.optimizer = model, optimizer
        self.train_loader, self.val_loader = train_loader, val_loader
        self.max_epochs = config.max_epochs if max_epochs is None else max_epochs
        self.use_amp = use_amp
        self.run_dir = Path(run_dir)
        self.scheduler, self.loss_function = scheduler, loss_function
        self.identity = identity or own_identity(config, model, optimizer, train_loader)
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
            with contextlib.closing(loop.saver), stop_on_signals() as loop.stop:
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
        num_steps = total_steps(config.steps, self.max_epochs, train)
        stepper = self._stepper(world, agent, num_steps)
        with verdict(world, "state.check", limit_s=config.load_limit_s):
            require_loadable(capture(stepper.state, []))
        self._start(world, run, agent, beginning, stepper.state)
        stepper.rehearse(train.first_batch())
        agent.watch_optimizer(
            self.optimizer, self.model.named_parameters(), every=config.norms_every
        )
        agent.accept(*REQUEST_KINDS)
        saver = Saver(
            world=world,
            run=run,
            agent=agent,
            run_id=beginning.run_id,
            attempt=beginning.attempt,
            keep=config.keep,
            limit_s=config.save_limit_s,
            parent_digest=beginning.decision.digest,
        )
        held_out = self._held_out(world, agent, stepper)
        saves = Saves(saver, stepper.state, held_out, config)
        return Loop(
            world=world,
            agent=agent,
            config=config,
            state=stepper.state,
            stepper=stepper,
            saves=saves.begun_at(beginning.decision),
            train=train,
            held_out=held_out,
            max_epochs=self.max_epochs,
        )

    def _stepper(self, world: World, agent: Agent, num_steps: int) -> Stepper:
        config = self.config
        amp_dtype = chosen_precision(config.amp, world.device, use_amp=self.use_amp)
        # First of all, as it gives every rank the weights of rank 0.
        model = wrapped(self.model, world, static_graph=config.static_graph)
        state = make_state(
            self.model,
            self.optimizer,
            self.scheduler,
            config,
            world.device,
            num_steps=num_steps,
            amp_dtype=amp_dtype,
        )
        return Stepper(
            world=world,
            agent=agent,
            state=state,
            wrapped=model,
            loss_function=self.loss_function,
            clip=config.clip,
            amp_dtype=amp_dtype,
        )

    def _start(
        self,
        world: World,
        run: RunDir,
        agent: Agent,
        beginning: Beginning,
        state: TrainState,
    ) -> None:
        """Restore what was decided, and say what came of it."""
        remarks = start_from(
            world,
            run,
            agent,
            beginning.decision,
            state,
            self.config,
            attempt=beginning.attempt,
        )
        for remark in remarks if world.is_main else ():
            say(remark)

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

    def _held_out(self, world: World, agent: Agent, stepper: Stepper) -> HeldOut:
        batches = None
        if self.val_loader is not None and num_samples(self.val_loader):
            batches = self._planned(self.val_loader, world, shuffle=False)
        return HeldOut(
            world=world,
            agent=agent,
            config=self.config,
            state=stepper.state,
            batches=batches,
            loss_function=self.loss_function,
        )


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
