"""The second stage of training: go back to the best of the first, and stay near it.

At the start of epoch `stop_epoch` all ranks load the best checkpoint of the
epochs before, and the average of the weights restarts with another decay. From
then on every epoch that does not beat the best loss is undone: the checkpoint
is loaded again, the best is forgotten and the decay lowered a little.
Source: Peng et al. 2024 (D-FINE), its reference training loop.
"""

from dataclasses import dataclass

import msgspec

from agent.probes.home import Home
from agent.rundir.checkpoints import CheckpointEntry, list_checkpoints
from agent.rundir.layout import RunDir
from agent.session import Agent
from trainer.checkpoint.load import Decision, load_decided
from trainer.checkpoint.retention import best_checkpoint, set_pin
from trainer.checkpoint.state import TrainState, restore_weights
from trainer.checkpoint.verify import verify_published
from trainer.config import TrainConfig
from trainer.distributed.verdict import from_main, verdict
from trainer.distributed.world import World

RELOAD_BARRIER = "checkpoint.reload"
_DECAY_STEP = 1e-4


@dataclass
class SecondStage:
    """Watches epochs and evaluations. Equal on all ranks."""

    world: World
    run: RunDir
    agent: Agent
    config: TrainConfig
    state: TrainState
    epoch_samples: int
    """Samples of an epoch, over all ranks."""

    def __post_init__(self) -> None:
        self._home = Home(self.run)

    @property
    def is_on(self) -> bool:
        """Whether there is a second stage at all."""
        return self.config.stop_epoch > 0

    def epoch_begins(self) -> str | None:
        """Go back to the best of the first stage if the second one begins.

        Returns:
            What was done, in words; None: nothing.

        Raises:
            RunDirError: a rank could not load it; on every rank.
        """
        if not self.is_on or self.state.progress.epoch != self.config.stop_epoch:
            return None
        return self._reload(self.config.ema_restart_decay)

    def epoch_evaluated(self, *, is_best: bool) -> str | None:
        """Undo an epoch of the second stage that was not better; as `epoch_begins`."""
        progress, average = self.state.progress, self.state.average
        # The epoch is counted already: the one that ended is the one before.
        if not self.is_on or is_best or progress.epoch <= self.config.stop_epoch:
            return None
        decay = average.decay - _DECAY_STEP if average is not None else 0.0
        progress.best.reset()
        return self._reload(max(0.0, decay))

    def _reload(self, decay: float) -> str:
        limit_s = self.config.load_limit_s
        with self.agent.in_phase("loading", limit_s=limit_s):
            told = from_main(self.world, RELOAD_BARRIER, self._decide, limit_s=limit_s)
            decision = msgspec.json.decode(told, type=Decision)
            if decision.name is None:
                return (
                    "no checkpoint of the first stage has a held-out loss: none loaded"
                )
            with verdict(self.world, RELOAD_BARRIER, limit_s=limit_s):
                loaded = load_decided(
                    self.run, decision, view_limit_s=self.config.view_limit_s
                )
                restore_weights(loaded.state, self.state)
        if self.state.average is not None:
            self.state.average.restart(decay)
        return f"loaded `{decision.name}`, the best of the first stage, again"

    def _decide(self) -> str:
        """Choose on rank 0, keep it from retention, and verify it once more.

        Raises:
            LockedError: another run lies there by now, with checkpoints of its own.
        """
        self._home.look()
        end = self.config.stop_epoch * self.epoch_samples
        entry = best_checkpoint(
            [e for e in list_checkpoints(self.run) if _is_from_before(e, end)]
        )
        if entry is None:
            return msgspec.json.encode(Decision()).decode()
        if not entry.is_pinned:
            set_pin(self.run, entry.name, is_pinned=True, by="second stage")
        verified = verify_published(self.run, entry.name, self.agent.emit, by="load")
        if not verified.is_sound:
            return msgspec.json.encode(Decision()).decode()
        decision = Decision(entry.name, entry.digest, entry.number, entry.number)
        return msgspec.json.encode(decision).decode()


def _is_from_before(entry: CheckpointEntry, num_samples: int) -> bool:
    manifest = entry.manifest
    return manifest is not None and (manifest.num_samples or 0) <= num_samples
