"""Save together: rank 0 writes, the others wait by the store, then all agree.

Nobody waits inside a collective while the disk works. Every rank learns how the
save ended; an error on rank 0 is the same error on all of them.
"""

import functools
import platform
import time
from dataclasses import dataclass, field
from typing import Any

import msgspec
import torch
from torch.serialization import get_crc32_options

from agent.probes.home import Home
from agent.rundir.errors import LockedError
from agent.rundir.events import CheckpointRefused
from agent.rundir.layout import STATE_NAME, RunDir, checkpoint_name
from agent.rundir.manifest import MANIFEST_SCHEMA, Manifest
from agent.session import Agent
from trainer.checkpoint.background import Background
from trainer.checkpoint.describe import describe_optimizer, describe_tensors
from trainer.checkpoint.plain import require_loadable
from trainer.checkpoint.publish import Outcome, Publisher
from trainer.checkpoint.retention import prune
from trainer.checkpoint.rng import capture_rng, gather_rng
from trainer.checkpoint.state import TrainState, capture, snapshot
from trainer.distributed.verdict import from_main
from trainer.distributed.world import World

SAVE_BARRIER = "checkpoint.save"


@dataclass
class Saver:
    """Saves one run's checkpoints, on all ranks together."""

    world: World
    run: RunDir
    agent: Agent
    run_id: str
    attempt: int
    keep: int
    limit_s: float
    parent_digest: str | None = None
    """Of the checkpoint that this attempt began with."""
    last_name: str | None = None
    """The last one that this attempt saved, soundly."""
    last_mono_s: float = field(default_factory=time.monotonic)
    """When the last save ended, or this attempt began."""

    is_saving: bool = False
    """Whether a save in the background was begun and not finished."""

    def __post_init__(self) -> None:
        self.home = Home(self.run)
        """Whatever would be written by the run directory's path asks it first."""
        self._publisher = Publisher(self.run, self.agent.emit)
        self._background: Background | None = None

    def save(
        self,
        state: TrainState,
        reason: str,
        *,
        metrics: dict[str, float] | None = None,
        label_step: int | None = None,
        completed: int | None = None,
    ) -> Outcome:
        """Save the state of now. Every rank has to call it, at the same step.

        Args:
            state: Of this rank; that of rank 0 is written, with the random
                number generators of all ranks.
            reason: `interval`, `best`, `final`, `signal`, `request` …
            metrics: Held-out results of this very state.
            label_step: The step in the name, where it is not the completed one.
            completed: Steps that are complete, where the state says the label.

        Returns:
            How it ended, equal on all ranks: saved, or refused for want of room
            or because another process holds the lock.

        Raises:
            RunDirError: rank 0 failed, another run lies in the directory, or a
                rank is missing; on every rank.
        """
        with self.agent.in_phase("saving", limit_s=self.limit_s):
            rng = gather_rng(self.world, capture_rng(self.world.device))

            def write() -> str:
                saved = capture(state, rng)
                facts = self._facts(state, saved, reason, metrics or {})
                if label_step is not None:
                    saved["progress"]["step"] = completed
                    saved["label_step"] = label_step
                    facts = msgspec.structs.replace(
                        facts, step=completed, label_step=label_step
                    )
                return self._publish(saved, facts)

            return self._told(
                from_main(self.world, SAVE_BARRIER, write, limit_s=self.limit_s)
            )

    def begin_save(
        self, state: TrainState, reason: str, *, metrics: dict[str, float] | None = None
    ) -> None:
        """Save the state of now in the background; arguments as of `save`.

        Returns once the state is copied. The thread that writes takes part in
        no collective; `finish_save` brings its outcome to all ranks, and has to
        be called before the next save begins.
        """
        assert not self.is_saving
        with self.agent.in_phase("saving", limit_s=self.limit_s):
            rng = gather_rng(self.world, capture_rng(self.world.device))
        self.is_saving = True
        if self.world.is_main:
            try:
                saved = snapshot(capture(state, rng))
                facts = self._facts(state, saved, reason, metrics or {})
            except (MemoryError, RuntimeError) as error:
                # Told by `finish_save`: here the other ranks would not hear it.
                self._background = Background(functools.partial(_fail, error))
                return
            self._background = Background(lambda: self._publish(saved, facts))

    def close(self) -> None:
        """Wait for a save in the background that nobody asks for any more.

        Else it could publish after another start has taken the run.
        """
        if self._background is not None:
            self._background.wait()

    @property
    def has_outcome(self) -> bool:
        """Whether the save in the background has ended. Only rank 0 knows."""
        return self._background is not None and self._background.has_ended

    def finish_save(self) -> Outcome | None:
        """Wait for the save in the background. Every rank has to call it.

        Returns:
            How it ended, equal on all ranks; None: there was none.

        Raises:
            RunDirError: as `save`.
        """
        if not self.is_saving:
            return None
        background, self._background = self._background, None
        self.is_saving = False

        def wait() -> str:
            assert background is not None
            return background.result()

        with self.agent.in_phase("saving", limit_s=self.limit_s):
            return self._told(
                from_main(self.world, SAVE_BARRIER, wait, limit_s=self.limit_s)
            )

    def _publish(self, saved: dict[str, Any], facts: Manifest) -> str:
        """Write on rank 0 and let retention follow; return what all are told.

        Raises:
            LockedError: another run lies there by now; nothing of it was touched.
        """
        self.home.look()
        label = facts.label_step if facts.label_step is not None else facts.step
        assert label is not None
        require_loadable(saved)
        outcome = self._attempt(checkpoint_name(label), saved, facts)
        gone, remark = self._prune()
        if outcome.refusal is not None and gone:
            # There were more than are kept, e.g. as fewer are since this start.
            outcome = self._attempt(checkpoint_name(label), saved, facts)
        outcome = msgspec.structs.replace(outcome, remark=remark)
        return msgspec.json.encode(outcome).decode()

    def _attempt(self, name: str, saved: dict[str, Any], facts: Manifest) -> Outcome:
        """Publish; whoever holds the lock too long costs a checkpoint, not the run."""
        try:
            return self._publisher.publish(name, saved, facts)
        except LockedError as error:
            self.agent.emit(CheckpointRefused, checkpoint=name, reason=str(error))
            return Outcome(name, None, str(error))

    def _prune(self) -> tuple[list[str], str | None]:
        """Let retention follow; what it cannot remove is said, and stays."""
        self.home.look()
        try:
            return prune(self.run, self.keep, self.agent.emit), None
        except (LockedError, OSError) as error:
            return [], f"older checkpoints stay for now: {error}"

    def _told(self, text: str) -> Outcome:
        outcome = msgspec.json.decode(text, type=Outcome)
        self.last_mono_s = time.monotonic()
        if outcome.refusal is None:
            self.last_name = outcome.name
        return outcome

    def _facts(
        self,
        state: TrainState,
        saved: dict[str, Any],
        reason: str,
        metrics: dict[str, float],
    ) -> Manifest:
        progress = state.progress
        return Manifest(
            schema=MANIFEST_SCHEMA,
            run_id=self.run_id,
            attempt=self.attempt,
            created_ns=time.time_ns(),
            reason=reason,
            files=(),
            step=progress.step,
            epoch=progress.epoch,
            num_samples=progress.num_samples,
            world_size=self.world.world_size,
            parent_digest=self.parent_digest,
            metrics=metrics,
            tensors=describe_tensors(saved, STATE_NAME),
            optimizer=describe_optimizer(state.optimizer, state.model),
            has_rng=True,
            has_ema=state.average is not None,
            crc32=get_crc32_options(),
            torch_version=str(torch.__version__),
            python_version=platform.python_version(),
        )


def _fail(error: Exception) -> str:
    raise error
