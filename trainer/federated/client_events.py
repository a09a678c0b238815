"""What a client tells the run directory, after it has happened."""

from pathlib import Path

from agent.rundir.events import OptimizerReset, StoreStats
from agent.session import Agent
from trainer.federated.learner import StepResult
from trainer.federated.mended_copies import tell_mended_copies
from trainer.federated.workbench import Reset, Stored, Workbench

_NORMS_EVERY = 10
"""Local steps between two looks at the optimizer."""


class ClientEvents:
    """Writes one client's telemetry in one attempt of the run."""

    def __init__(
        self, run_dir: Path, key: str, attempt: int, *, seed: int, workbench: Workbench
    ) -> None:
        """Attach to the run.

        Args:
            run_dir: On this host.
            key: The client's.
            attempt: As the server told.
            seed: Of the client's data order.
            workbench: Its optimizer is watched.

        Raises:
            RunDirError: the key cannot name a file.
        """
        self.agent = Agent.attach(
            run_dir, kind="federated", rank=-1, world_size=1, attempt=attempt, node=key
        )
        self._seed = seed
        self._optimizer = workbench.local.optimizer
        if self._optimizer is not None:
            named = workbench.local.model.named_parameters()
            self.agent.watch_optimizer(self._optimizer, named, every=_NORMS_EVERY)

    def waiting(self) -> None:
        """For the next task, or for the server."""
        self.agent.phase("waiting")

    def fetching(self) -> None:
        """The global model is on its way."""
        self.agent.phase("loading")

    def training(self, round_num: int) -> None:
        """A round is being trained."""
        self.agent.emitter.round_num = round_num
        self.agent.phase("training")

    def step_done(self, step: int, result: StepResult) -> None:
        """A local optimizer step is complete. Called from the worker thread."""
        groups = self._optimizer.param_groups if self._optimizer else []
        lr = float(groups[0]["lr"]) if groups else None
        is_finite = result.loss - result.loss == 0
        self.agent.step_done(
            step,
            loss=result.loss if is_finite else None,
            lr=lr,
            step_ns=result.step_ns,
            nonfinite=None if is_finite else "loss",
        )

    def reset(self, reset: Reset, model_digest: str, round_num: int) -> None:
        """Optimizer state was cleared or shrunk. Called from the worker thread.

        Args:
            reset: What was done, and why.
            model_digest: Of the global model that the client goes on from.
            round_num: Whose aggregate that is, or the round about to be trained.
        """
        self.agent.emit(
            OptimizerReset,
            round_num=round_num,
            optimizer=reset.change.optimizer,
            reason=reset.loss.reason,
            before=reset.change.before,
            after=reset.change.after,
            rounds_missed=reset.loss.rounds_missed,
            model_digest=model_digest,
            data_position=reset.data_position,
            seed=self._seed,
        )

    def stored(self, round_num: int, stored: Stored) -> None:
        """A round was stored, or could not be. Called from the worker thread."""
        put, stats = stored.put, stored.stats
        if put is not None:
            tell_mended_copies(self.agent, put)
        self.agent.emit(
            StoreStats,
            round_num=round_num,
            num_rounds=stats.num_rounds if stats else 0,
            num_chunks=stats.num_unique_chunks if stats else 0,
            new_chunks=put.num_new if put else 0,
            new_bytes=put.new_bytes if put else 0,
            shared_bytes=put.shared_bytes if put else 0,
            file_bytes=put.file_bytes if put else 0,
            put_ns=put.elapsed_ns if put else 0,
            error=stored.error,
        )

    def ended(self, reason: str, error: str | None = None) -> None:
        """This client's part in the attempt is over."""
        self.agent.ended(reason, error=error)
