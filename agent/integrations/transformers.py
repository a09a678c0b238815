"""Watch and operate a Transformers run: `Trainer(callbacks=[RunDirCallback(…)])`.

Steps, evaluations and the optimizer's norms are told; `checkpoint-now` and
`stop` are obeyed on all ranks at the same step, by the trainer's own flags.
Imported only by who uses it.
"""

from pathlib import Path
from typing import Any

from transformers import (  # type: ignore[import-not-found]  # optional
    TrainerCallback,
)

from agent.integrations.foreign import ForeignLoop


class RunDirCallback(TrainerCallback):  # type: ignore[misc]  # Any where it is missing
    """Tells a run directory what `Trainer.train` does, and obeys requests there."""

    def __init__(
        self,
        run_dir: str | Path,
        *,
        agree_every: int = 10,
        norms_every: int = 200,
        **attach: Any,  # noqa: ANN401 - Agent.attach checks them
    ) -> None:
        """Keep what is needed when `train` begins; see `Agent.attach`."""
        self._loop = ForeignLoop(run_dir, agree_every=agree_every, **attach)
        self._norms_every = norms_every
        self._logged: dict[str, float] = {}

    def on_train_begin(
        self,
        args: Any,  # noqa: ANN401 - Transformers'
        state: Any,  # noqa: ANN401 - Transformers'
        control: Any,  # noqa: ANN401, ARG002 - Transformers'
        **kwargs: Any,  # noqa: ANN401 - model, optimizer …
    ) -> None:
        """Attach: by now there is a process group and an optimizer."""
        agent = self._loop.begin(
            step=state.global_step,
            rank=args.process_index,
            world_size=args.world_size,
        )
        optimizer, model = kwargs.get("optimizer"), kwargs.get("model")
        if optimizer is not None and model is not None:
            agent.watch_optimizer(
                getattr(optimizer, "optimizer", optimizer),
                model.named_parameters(),
                every=self._norms_every,
            )

    def on_log(
        self,
        args: Any,  # noqa: ANN401, ARG002 - Transformers'
        state: Any,  # noqa: ANN401, ARG002 - Transformers'
        control: Any,  # noqa: ANN401, ARG002 - Transformers'
        logs: dict[str, float] | None = None,
        **_: Any,  # noqa: ANN401 - Transformers'
    ) -> None:
        """Keep what the trainer logs; it goes out with the next step."""
        self._logged = dict(logs or {})

    def on_step_end(
        self,
        args: Any,  # noqa: ANN401, ARG002 - Transformers'
        state: Any,  # noqa: ANN401 - Transformers'
        control: Any,  # noqa: ANN401 - Transformers'
        **_: Any,  # noqa: ANN401 - Transformers'
    ) -> Any:  # noqa: ANN401 - its control
        """Tell a step, and raise the trainer's flags for what was asked for."""
        logged, self._logged = self._logged, {}
        request = self._loop.step_done(
            state.global_step,
            loss=logged.get("loss"),
            lr=logged.get("learning_rate"),
            grad_norm=logged.get("grad_norm"),
        )
        if request is not None:
            control.should_save = True
            control.should_training_stop |= request.kind == "stop"
        return control

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ANN401, ARG002 - Transformers'
        """Tell that a request to save is done."""
        self._loop.saved()

    def on_evaluate(
        self,
        args: Any,  # noqa: ANN401, ARG002 - Transformers'
        state: Any,  # noqa: ANN401, ARG002 - Transformers'
        control: Any,  # noqa: ANN401, ARG002 - Transformers'
        metrics: dict[str, float] | None = None,
        **_: Any,  # noqa: ANN401 - Transformers'
    ) -> None:
        """Tell the held-out loss."""
        if self._loop.agent is not None:
            self._loop.agent.eval_done(loss=(metrics or {}).get("eval_loss"))

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ANN401, ARG002 - Transformers'
        """Say that training ended."""
        self._loop.end()
