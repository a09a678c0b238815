"""Every setting of the data-parallel trainer, with its unit and default.

This one class is the source of the flags, of the `OPSDASH_<FIELD>` variables,
of the keys of the TOML file and of `--help`. Fields of the sections in
`DEFINING` make up what is being trained: an existing run is only continued
with the same ones. The others say how, and may change from start to start.
"""

import dataclasses
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from msgspec import Meta

DEFINING = ("training", "data", "model", "optimizer", "schedule", "averages")
"""Sections that must not change between two starts of a run."""

ONCE = ("starting", "drills")
"""Sections that are meant for one start, and not for the ones after it."""


def setting(
    section: str,
    description: str,
    *,
    default: object,
    unit: str = "",
    **limits: Any,  # noqa: ANN401 - what msgspec.Meta takes: ge, gt, le, lt
) -> Any:  # noqa: ANN401 - stands where a default of any type may stand
    """Return a field of a class of settings: what a flag, a file and `--help` need."""
    meta = Meta(description=description, **limits)
    return dataclasses.field(
        default=default, metadata={"section": section, "unit": unit, "meta": meta}
    )


_training = partial(setting, "training")
_data = partial(setting, "data")
_model = partial(setting, "model")
_optimizer = partial(setting, "optimizer")
_schedule = partial(setting, "schedule")
_averages = partial(setting, "averages")
_evaluation = partial(setting, "evaluation")
_checkpoints = partial(setting, "checkpoints")
_starting = partial(setting, "starting")
_drills = partial(setting, "drills")
_processes = partial(setting, "processes")
_telemetry = partial(setting, "telemetry")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The settings. Frozen: what a run was started with does not change."""

    steps: int = _training(
        "optimizer steps in total, across starts; 0: as many as the epochs have",
        default=600,
        unit="steps",
        ge=0,
    )
    max_epochs: int = _training(
        "passes over the training data; 0: as many as the steps need",
        default=0,
        unit="epochs",
        ge=0,
    )
    batch_size: int = _training(
        "samples per rank and forward pass", default=8, unit="samples", ge=1
    )
    accumulate: int = _training(
        "forward passes per optimizer step", default=1, unit="passes", ge=1
    )
    seed: int = _training(
        "of weights, data order and, with the rank added, dropout", default=1, ge=0
    )
    amp: Literal["off", "bf16", "fp16"] = _training(
        "mixed precision; fp16 scales the loss and skips steps whose gradient "
        "is not finite",
        default="off",
    )
    clip: float = _training(
        "largest gradient norm; 0: no clipping", default=1.0, unit="L2 norm", ge=0
    )
    static_graph: bool = _training(
        "tell DDP that every step uses the same parameters", default=False
    )
    init_from: str = _training(
        "weights to begin with: a file, or an http(s) address that is fetched and "
        "verified first; empty: random ones",
        default="",
    )
    init_digest: str = _training(
        "what `init_from` must have, as `sha256:…` or `blake3:…`; empty: not known",
        default="",
    )
    patience: int = _training(
        "evaluations without a better held-out loss before the run ends; 0: never",
        default=0,
        unit="evaluations",
        ge=0,
    )
    max_skipped: int = _training(
        "steps in a row that may be skipped for a gradient that is not finite "
        "before the run ends with an error",
        default=50,
        unit="steps",
        ge=1,
    )

    corpus_bytes: int = _data(
        "of the standard library's source text to train on",
        default=4_000_000,
        unit="bytes",
        ge=1,
    )
    val_frac: float = _data(
        "share of the files that is held out", default=0.05, unit="fraction", gt=0, lt=1
    )

    num_workers: int = _processes(
        "data loader processes per rank; 0: load in the rank itself",
        default=0,
        unit="processes",
        ge=0,
    )

    layers: int = _model("transformer blocks", default=5, unit="blocks", ge=1)
    heads: int = _model("attention heads", default=4, unit="heads", ge=1)
    width: int = _model(
        "of the residual stream; a multiple of heads",
        default=128,
        unit="channels",
        ge=1,
    )
    block: int = _model("bytes that the model sees", default=128, unit="tokens", ge=2)
    dropout: float = _model(
        "share of activations that is dropped while training",
        default=0.1,
        unit="fraction",
        ge=0,
        lt=1,
    )

    optimizer: Literal["adamw", "adam", "sgd", "rmsprop", "adagrad"] = _optimizer(
        "which optimizer", default="adamw"
    )
    lr: float = _optimizer("highest learning rate", default=0.002, gt=0)
    weight_decay: float = _optimizer(
        "on weights; never on biases and normalisation layers", default=0.1, ge=0
    )
    momentum: float = _optimizer("of SGD and RMSprop", default=0.9, ge=0, lt=1)

    schedule: Literal["cosine", "linear", "constant", "one_cycle", "wsd"] = _schedule(
        "of the learning rate after warm-up", default="cosine"
    )
    warmup_steps: int = _schedule(
        "steps in which the learning rate rises to its highest",
        default=30,
        unit="steps",
        ge=0,
    )
    min_lr_frac: float = _schedule(
        "lowest learning rate over highest", default=0.1, unit="fraction", ge=0, le=1
    )
    decay_frac: float = _schedule(
        "share of the run in which wsd decays", default=0.2, unit="fraction", gt=0, le=1
    )

    ema_decay: float = _averages(
        "of the average of the weights; 0: keep no average",
        default=0.0,
        unit="per step",
        ge=0,
        lt=1,
    )
    stop_epoch: int = _averages(
        "epoch, from 0, at whose start the best checkpoint is loaded again and "
        "the average's decay restarts; 0, or past the end: never",
        default=0,
        unit="epoch",
        ge=0,
    )
    ema_restart_decay: float = _averages(
        "the average's decay from stop_epoch on; lowered by 0.0001 with every "
        "later reload",
        default=0.9999,
        unit="per step",
        ge=0,
        lt=1,
    )

    eval_every: int = _evaluation(
        "steps between two evaluations; 0: at the end of every epoch",
        default=100,
        unit="steps",
        ge=0,
    )
    eval_samples: int = _evaluation(
        "most held-out samples per evaluation, over all ranks",
        default=256,
        unit="samples",
        ge=1,
    )

    save_every: int = _checkpoints(
        "steps between two checkpoints; 0: by minutes and at the end",
        default=100,
        unit="steps",
        ge=0,
    )
    save_minutes: float = _checkpoints(
        "time between two checkpoints; 0: by steps only",
        default=0.0,
        unit="minutes",
        ge=0,
    )
    async_save: bool = _checkpoints(
        "write interval checkpoints in the background, from a copy in memory",
        default=False,
    )
    save_best: bool = _checkpoints(
        "save whenever the held-out loss is better than ever", default=False
    )
    keep: int = _checkpoints(
        "newest verified checkpoints to keep, beside the best one and pinned ones",
        default=3,
        unit="checkpoints",
        ge=1,
    )
    fix_iter: int = _checkpoints(
        "step whose checkpoint is saved one step early, with static_graph; 0: none",
        default=0,
        unit="step",
        ge=0,
    )
    save_limit_s: float = _checkpoints(
        "how long a save may take before it counts as failed",
        default=600.0,
        unit="seconds",
        gt=0,
    )
    load_limit_s: float = _checkpoints(
        "how long finding, verifying or loading may take",
        default=600.0,
        unit="seconds",
        gt=0,
    )
    view_limit_s: float = _checkpoints(
        "how long a rank's view of a shared file system may lag",
        default=10.0,
        unit="seconds",
        ge=0,
    )

    resume: str = _starting(
        "`auto`: from the newest verified checkpoint if there is any; `never`: "
        "from the beginning; or a checkpoint's name",
        default="auto",
    )
    new_attempt: bool = _starting(
        "continue the run although its configuration differs", default=False
    )
    allow_new_optimizer: bool = _starting(
        "start with a fresh optimizer where the saved one does not fit", default=False
    )
    check_resume: bool = _starting(
        "after loading, compare every piece of state with the checkpoint, bitwise",
        default=False,
    )

    die_at: int = _drills(
        "step after which every rank kills itself; 0: none",
        default=0,
        unit="step",
        ge=0,
    )
    drill_rank: int = _drills("the rank that is late or hangs", default=1, ge=0)
    drill_delay_ms: float = _drills(
        "how much later it comes to every step", default=0.0, unit="milliseconds", ge=0
    )
    drill_hang_at: int = _drills(
        "step after which it hangs for ever; 0: none", default=0, unit="step", ge=0
    )

    backend: Literal["auto", "gloo", "nccl"] = _processes(
        "of gradients; auto: nccl on CUDA, else gloo", default="auto"
    )
    device: Literal["auto", "cpu", "cuda"] = _processes(
        "auto: CUDA where every rank of a host has its own", default="auto"
    )
    timeout_s: float = _processes(
        "of collectives; where it is not set, NCCL_TIMEOUT, which nothing in "
        "torch reads",
        default=1800.0,
        unit="seconds",
        gt=0,
    )
    control_timeout_s: float = _processes(
        "of verdicts, once all ranks have spoken", default=30.0, unit="seconds", gt=0
    )

    norms_every: int = _telemetry(
        "steps between two looks at the optimizer's norms",
        default=200,
        unit="steps",
        ge=1,
    )
    log_every: int = _telemetry(
        "steps between two lines on standard output; 0: none",
        default=50,
        unit="steps",
        ge=0,
    )
    profile_at: int = _telemetry(
        "step at which a window of torch.profiler opens; 0: none",
        default=0,
        unit="step",
        ge=0,
    )
    profile_steps: int = _telemetry(
        "steps in that window", default=5, unit="steps", ge=1
    )
