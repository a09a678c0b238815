"""Load together: every rank reads, checks and restores, and all must succeed.

Only when every rank has its state are the checkpoints above it set aside: a
resume that is refused has changed nothing.
"""

import contextlib
import time
from contextlib import AbstractContextManager
from pathlib import Path

from agent.rundir.errors import RunDirError
from agent.rundir.events import CheckpointLoaded
from agent.rundir.layout import RunDir
from agent.session import Agent
from trainer.checkpoint.checking import require_equal
from trainer.checkpoint.describe import OptimizerMismatchError, check_optimizer
from trainer.checkpoint.initial import fetch, load_weights
from trainer.checkpoint.load import Decision, Loaded, load_decided
from trainer.checkpoint.rollback import supersede_above
from trainer.checkpoint.state import TrainState, restore, snapshot
from trainer.config import TrainConfig
from trainer.distributed.verdict import from_main, verdict
from trainer.distributed.world import World

LOAD_BARRIER = "checkpoint.load"
SUPERSEDE_BARRIER = "checkpoint.supersede"


def start_from(
    world: World,
    run: RunDir,
    agent: Agent,
    decision: Decision,
    state: TrainState,
    config: TrainConfig,
    *,
    attempt: int,
) -> list[str]:
    """Bring the state to where training begins, and give up what lies above.

    Returns:
        What an operator has to know about it, in words.

    Raises:
        RunDirError: a rank could not; the same on every rank.
    """
    remarks = list(decision.remarks)
    if decision.name is not None:
        remarks += load_together(world, run, agent, decision, state, config)
        remarks.append(f"resumed from `{decision.name}` at step {decision.step}")
    elif config.init_from:
        load_initial(world, run, agent, state, config)
        remarks.append(f"begins with the weights of `{config.init_from}`")
    limit_s = config.load_limit_s
    aside = give_up_above(world, run, agent, decision, attempt=attempt, limit_s=limit_s)
    return remarks + [f"checkpoint `{name}` is superseded" for name in aside]


def load_together(
    world: World,
    run: RunDir,
    agent: Agent,
    decision: Decision,
    state: TrainState,
    config: TrainConfig,
) -> list[str]:
    """Restore a checkpoint on all ranks, or raise the same error on all.

    Args:
        world: Every rank has to call it.
        run: The run.
        agent: Of this rank.
        decision: Of rank 0; it names a checkpoint.
        state: Is replaced.
        config: Says how long it may take and what may differ.

    Returns:
        What an operator has to know about it, in words.

    Raises:
        RunDirError: of the lowest rank that could not load.
    """
    assert decision.name is not None
    assert decision.digest is not None
    began = time.monotonic_ns()
    remarks: list[str] = []
    with (
        agent.in_phase("loading", limit_s=config.load_limit_s),
        verdict(world, LOAD_BARRIER, limit_s=config.load_limit_s),
    ):
        loaded = load_decided(run, decision, view_limit_s=config.view_limit_s)
        keeps = _keeps_optimizer(loaded, state, agent, config)
        # The optimizer takes the loaded tensors themselves: compare with a copy.
        untouched = snapshot(loaded.state) if config.check_resume else None
        with _telling_norms(agent, state, decision, is_told=keeps):
            remarks = restore(
                loaded.state, state, world, seed=config.seed, with_optimizer=keeps
            )
        if untouched is not None:
            require_equal(untouched, state, world)
        # A static graph's early save is labelled with a step that was not done.
        state.progress.step = decision.step
        state.rates.settle(decision.step)
    agent.begin_at(decision.step)
    agent.emit(
        CheckpointLoaded,
        checkpoint=decision.name,
        digest=decision.digest,
        load_ns=time.monotonic_ns() - began,
        resumed_step=decision.step,
    )
    return remarks


def load_initial(
    world: World, run: RunDir, agent: Agent, state: TrainState, config: TrainConfig
) -> None:
    """Give the model and its average the weights that they begin with.

    Raises:
        RunDirError: they cannot be had or are not this model's; on every rank.
    """
    limit_s = config.load_limit_s

    def fetched() -> str:
        return str(fetch(config.init_from, run.path / "downloads", config.init_digest))

    with agent.in_phase("loading", limit_s=limit_s):
        path = from_main(world, "weights.fetch", fetched, limit_s=limit_s)
        with verdict(world, "weights.load", limit_s=limit_s):
            load_weights(Path(path), state.model)
            if state.average is not None:
                state.average.start_from(state.model)


def give_up_above(
    world: World,
    run: RunDir,
    agent: Agent,
    decision: Decision,
    *,
    attempt: int,
    limit_s: float,
) -> list[str]:
    """Set aside what lies above the point that all ranks begin at.

    Returns:
        The names that were set aside, on every rank.
    """

    def supersede() -> str:
        aside = supersede_above(
            run, decision.number, attempt, agent.emit, start=decision.name
        )
        return "\n".join(aside)

    told = from_main(world, SUPERSEDE_BARRIER, supersede, limit_s=limit_s)
    return told.splitlines()


def _telling_norms(
    agent: Agent, state: TrainState, decision: Decision, *, is_told: bool
) -> AbstractContextManager[None]:
    """Surround a reload of the optimizer's state with a look at its norms."""
    if not is_told:
        return contextlib.nullcontext()
    return agent.changing_optimizer(
        state.optimizer,
        reason=f"loaded `{decision.name}`",
        model_digest=decision.digest,
    )


def _keeps_optimizer(
    loaded: Loaded, state: TrainState, agent: Agent, config: TrainConfig
) -> bool:
    """Say whether the saved optimizer state is loaded; False: not, on purpose."""
    try:
        check_optimizer(
            loaded.manifest, loaded.state["optimizer"], state.optimizer, state.model
        )
    except OptimizerMismatchError as error:
        if not config.allow_new_optimizer:
            raise
        agent.reset_optimizer(state.optimizer, reason=str(error))
        return False
    except (KeyError, TypeError, IndexError) as error:
        raise RunDirError(
            f"the checkpoint's optimizer state is not as this trainer saves it: {error}"
        ) from error
    return True
