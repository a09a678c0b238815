"""Workbenches and updates for tests, on a toy that trains in a millisecond."""

from trainer.federated.aggregate import Update
from trainer.federated.client_store import ClientStore
from trainer.federated.config import FederatedConfig
from trainer.federated.global_model import GlobalModel
from trainer.federated.learner import Learner
from trainer.federated.problem import client_data, server_data
from trainer.federated.workbench import Workbench

RUN_ID = "run"
KEYS = ("client-1", "client-2", "client-3")


def toy(**changes):
    values = {
        "data": "linear",
        "clients": 3,
        "lr": 0.05,
        "momentum": 0.9,
        "local_steps": 2,
        "batch_size": 16,
        "keep_updates": True,
        "chunk_keep_rounds": 100,
    }
    return FederatedConfig(**(values | changes))


def make_global(path, config):
    data = server_data(config)
    return GlobalModel(path, run_id=RUN_ID, config=config, data=data)


def make_bench(config, key="client-1", path=None):
    shape = server_data(config).shape
    learner = Learner(config, shape, key, client_data(config, key, None))
    store = None if path is None else ClientStore(path, run_id=RUN_ID, config=config)
    return Workbench(learner, config, store)


def train(bench, round_num, tensors, *, attempt=1, base_digest="base"):
    """Prepare and train one round; return what was reset and the update."""
    reset = bench.prepare(round_num, tensors)
    update = bench.train(
        round_num,
        attempt,
        base_digest,
        is_cancelled=lambda: False,
        on_step=lambda _: None,
    )
    return reset, update


def as_update(bench, key, *, num_examples=50):
    """Return what the bench just trained as the server gets it."""
    tensors = {n: t.detach().clone() for n, t in bench.local.averaged_tensors().items()}
    return Update(client=key, tensors=tensors, num_examples=num_examples)


def global_tensors(model):
    return {name: model.tensors[name] for name in model.averaged}


def run_rounds(model, config, rounds, keys=KEYS):
    """Run rounds in which every client starts afresh: state is not the point."""
    for round_num in rounds:
        updates = []
        for key in keys:
            bench = make_bench(config, key)
            train(bench, round_num, global_tensors(model))
            updates.append(as_update(bench, key))
        done = model.advance(round_num, updates)
    return done
