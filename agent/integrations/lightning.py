"""Watch and operate a Lightning run: `Trainer(callbacks=[RunDirCallback("runs/a")])`.

Steps, evaluations and the optimizer's norms are told; `checkpoint-now` and
`stop` are obeyed on all ranks at the same step. Imported only by who uses it.
"""

import time
from pathlib import Path
from typing import Any

try:
    from lightning.pytorch import (  # type: ignore[import-not-found]  # optional
        Callback,
    )
except ImportError:
    from pytorch_lightning import (  # type: ignore[import-not-found]  # its older name
        Callback,
    )

from agent.integrations.foreign import ForeignLoop

CHECKPOINT_FOLDER = "lightning"
"""Below the run directory; Lightning's own files, without a manifest."""


class RunDirCallback(Callback):  # type: ignore[misc]  # Any where Lightning is missing
    """Tells a run directory what `Trainer.fit` does, and obeys requests there."""

    def __init__(
        self,
        run_dir: str | Path,
        *,
        agree_every: int = 10,
        norms_every: int = 200,
        **attach: Any,  # noqa: ANN401 - Agent.attach checks them
    ) -> None:
        """Keep what is needed when `fit` begins; see `Agent.attach`."""
        super().__init__()
        self._folder = Path(run_dir) / CHECKPOINT_FOLDER
        self._loop = ForeignLoop(run_dir, agree_every=agree_every, **attach)
        self._norms_every = norms_every
        self._told_step = 0
        self._validating_since_ns = 0

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:  # noqa: ANN401 - Lightning's
        """Attach: by now there is a process group and an optimizer."""
        self._told_step = trainer.global_step
        agent = self._loop.begin(
            step=trainer.global_step,
            rank=trainer.global_rank,
            world_size=trainer.world_size,
        )
        for optimizer in trainer.optimizers:
            agent.watch_optimizer(
                getattr(optimizer, "optimizer", optimizer),
                pl_module.named_parameters(),
                every=self._norms_every,
            )

    def on_train_batch_end(
        self,
        trainer: Any,  # noqa: ANN401 - Lightning's
        pl_module: Any,  # noqa: ANN401, ARG002 - Lightning's
        outputs: Any,  # noqa: ANN401 - what training_step returned
        batch: Any,  # noqa: ANN401, ARG002 - the user's
        batch_idx: int,  # noqa: ARG002 - Lightning's
    ) -> None:
        """Tell a step, once per optimizer step, and do what was asked for."""
        step = trainer.global_step
        if step == self._told_step:
            return  # gradients are still being accumulated
        self._told_step = step
        request = self._loop.step_done(step, loss=_loss(outputs), lr=_rate(trainer))
        if request is None:
            return
        # All ranks have to call it; rank 0 writes.
        trainer.save_checkpoint(self._folder / f"step-{step:08d}.ckpt")
        if request.kind == "stop":
            trainer.should_stop = True
        self._loop.saved()

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:  # noqa: ANN401, ARG002 - Lightning's
        """Say that evaluation begins."""
        self._validating_since_ns = time.monotonic_ns()
        if self._loop.agent is not None:
            self._loop.agent.phase("evaluating")

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:  # noqa: ANN401, ARG002 - Lightning's
        """Tell the held-out loss, where it is logged as `val_loss`."""
        if self._loop.agent is None:
            return
        loss = trainer.callback_metrics.get("val_loss")
        self._loop.agent.eval_done(
            loss=None if loss is None else float(loss),
            eval_ns=time.monotonic_ns() - self._validating_since_ns,
        )
        self._loop.agent.phase("training")

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:  # noqa: ANN401, ARG002 - Lightning's
        """Say that training ended in good order."""
        self._loop.end()

    def on_exception(self, trainer: Any, pl_module: Any, exception: Any) -> None:  # noqa: ANN401, ARG002 - Lightning's
        """Say that it did not."""
        self._loop.end(exception)


def _loss(outputs: Any) -> float | None:  # noqa: ANN401 - a tensor, a dict of them, or None
    value = outputs.get("loss") if isinstance(outputs, dict) else outputs
    return None if value is None else float(value)


def _rate(trainer: Any) -> float | None:  # noqa: ANN401 - Lightning's
    for optimizer in trainer.optimizers:
        return float(optimizer.param_groups[0]["lr"])
    return None
