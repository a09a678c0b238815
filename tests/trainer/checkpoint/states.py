"""Small training states and runs for the tests of checkpoints."""

import torch
from torch import nn

from agent.rundir.layout import RunDir, checkpoint_name
from agent.rundir.manifest import MANIFEST_SCHEMA, Manifest
from trainer.checkpoint.describe import describe_optimizer, describe_tensors
from trainer.checkpoint.publish import Publisher
from trainer.checkpoint.rng import capture_rng
from trainer.checkpoint.state import Progress, TrainState, capture
from trainer.optim.early_stopping import BestLoss
from trainer.optim.ema import WeightAverage
from trainer.optim.schedules import Schedule, ScheduledRates

CPU = torch.device("cpu")


class Told:
    """Remembers every event it is told."""

    def __init__(self):
        self.events = []

    def __call__(self, event_type, /, **fields):
        self.events.append((event_type.__name__, fields))

    @property
    def kinds(self):
        return [kind for kind, _ in self.events]

    def of(self, kind):
        return [fields for name, fields in self.events if name == kind]


def make_state(seed=0, *, with_average=True, width=3):
    """Return a state that has trained for three steps."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, width), nn.BatchNorm1d(width), nn.Dropout(0.5))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    state = TrainState(
        model=model,
        optimizer=optimizer,
        rates=ScheduledRates(Schedule("cosine", 10), optimizer),
        scaler=torch.amp.GradScaler("cpu", enabled=False),
        average=WeightAverage(model, 0.9) if with_average else None,
        progress=Progress(best=BestLoss()),
    )
    for step in range(1, 4):
        model(torch.randn(5, 4)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        if state.average is not None:
            state.average.update(model)
        state.rates.advance(step)
        state.progress.step = step
    state.progress.num_samples = state.progress.offset = 15
    return state


def payload(state):
    return capture(state, [capture_rng(CPU)])


def facts(state, saved, *, step=None, metrics=None, attempt=1):
    return Manifest(
        schema=MANIFEST_SCHEMA,
        run_id="a-run",
        attempt=attempt,
        created_ns=1,
        reason="interval",
        files=(),
        step=state.progress.step if step is None else step,
        num_samples=state.progress.num_samples,
        metrics=metrics or {},
        tensors=describe_tensors(saved, "state.pt"),
        optimizer=describe_optimizer(state.optimizer, state.model),
        has_rng=True,
        has_ema=state.average is not None,
    )


def publish(run, step, *, state=None, metrics=None, emit=None):
    """Publish a state as the checkpoint of a step, and return the outcome."""
    state = state or make_state()
    saved = payload(state)
    publisher = Publisher(run, emit or Told())
    return publisher.publish(
        checkpoint_name(step), saved, facts(state, saved, step=step, metrics=metrics)
    )


def make_run(path):
    """Return a run directory that has an identity."""
    path.mkdir(exist_ok=True)
    (path / "run.json").write_text(
        '{"schema":1,"run_id":"a-run","kind":"ddp","created_ns":1}'
    )
    return RunDir(path)
