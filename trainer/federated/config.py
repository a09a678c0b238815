"""Every setting of the federated trainer, with its unit and default.

The server reads them; clients get them with their welcome, so that a
federation trains one thing. Fields of the sections in `DEFINING` make up what
is being trained: an existing run is only continued with the same ones.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from trainer import catalogue
from trainer.config import setting
from trainer.federated.terms import SECOND_NS, RoundRules

DEFINING = ("data", "local", "server")
"""Sections that must not change between two starts of a run."""

DIGITS = "digits"
LINEAR = "linear"
BUILT_IN = (DIGITS, LINEAR)
"""Data that needs no file."""


_rounds = partial(setting, "rounds")
_data = partial(setting, "data")
_local = partial(setting, "local")
_server = partial(setting, "server")
_returning = partial(setting, "returning")
_store = partial(setting, "store")


@dataclass(frozen=True, kw_only=True)
class FederatedConfig:
    """The settings. Frozen: what a run was started with does not change."""

    rounds: int = _rounds(
        "rounds in total, across starts", unit="rounds", ge=1, default=5
    )
    round_limit_s: float = _rounds(
        "how long a round may last, whoever is silent",
        unit="seconds",
        gt=0,
        default=60.0,
    )
    min_clients: int = _rounds(
        "a round opens with at least so many; 0: half", unit="clients", ge=0, default=0
    )
    min_updates: int = _rounds(
        "a round is committed with at least so many", unit="updates", ge=1, default=1
    )
    client_frac: float = _rounds(
        "share of the connected clients that a round asks",
        unit="fraction",
        gt=0,
        le=1,
        default=1.0,
    )
    gather_s: float = _rounds(
        "how long the first round waits for the last clients",
        unit="seconds",
        ge=0,
        default=10.0,
    )
    return_grace_s: float = _rounds(
        "how long a lost client holds its round up", unit="seconds", ge=0, default=2.0
    )
    max_tries: int = _rounds(
        "rounds in a row without enough updates before the run ends with an error",
        unit="rounds",
        ge=1,
        default=5,
    )
    patience_s: float = _rounds(
        "how long too few clients are waited for; 0: for ever",
        unit="seconds",
        ge=0,
        default=600.0,
    )

    clients: int = _data(
        "clients that the data is shared among", unit="clients", ge=1, default=3
    )
    data: str = _data(
        "`digits`, `linear` (a toy), LEAF JSON, or a folder of .npz or .csv",
        default="digits",
    )
    num_classes: int = _data(
        "of LEAF or a folder; 0: as many as the server's data shows",
        unit="classes",
        ge=0,
        default=0,
    )
    alpha: float = _data(
        "how alike the clients' mixtures of digits are: 0.1 hardly, 100 very",
        gt=0,
        default=0.5,
    )
    seed: int = _data(
        "of weights, shares, order and choice of clients", ge=0, default=1
    )

    local_epochs: int = _local(
        "passes over a client's examples per round", unit="epochs", ge=1, default=2
    )
    local_steps: int = _local(
        "optimizer steps per round instead; 0: by epochs", unit="steps", ge=0, default=0
    )
    batch_size: int = _local("examples per step", unit="examples", ge=1, default=32)
    optimizer: Literal["sgd", "adam", "adamw", "rmsprop", "adagrad"] = _local(
        "of the clients", default="sgd"
    )
    lr: float = _local("learning rate of the clients", gt=0, default=0.05)
    momentum: float = _local("of SGD and RMSprop", ge=0, lt=1, default=0.9)
    weight_decay: float = _local("of the clients' optimizer", ge=0, default=0.0)
    proximal: float = _local(
        "FedProx: pull towards the global model (mu); 0: none", ge=0, default=0.0
    )

    server_momentum: float = _server(
        "FedAvgM: of the global model's change; 0: none", ge=0, lt=1, default=0.0
    )
    server_lr: float = _server("of the global model's change", gt=0, default=1.0)
    average_buffers: bool = _server(
        "average normalisation statistics too; else they stay local", default=False
    )

    policy: Literal["reset", "keep", "decay"] = _returning(
        "what a missed round does to a client's optimizer state", default="reset"
    )
    decay: float = _returning(
        "factor per missed round, with `decay`",
        unit="per round",
        ge=0,
        le=1,
        default=0.5,
    )
    reset_top: int = _returning(
        "parameters that a reset names, by norm", unit="parameters", ge=0, default=5
    )

    chunk_num: int = _store(
        "chunks of equal length per round; 0: by size, never across tensors",
        unit="chunks",
        ge=0,
        default=0,
    )
    chunk_keep_rounds: int = _store(
        "newest rounds that each node keeps", unit="rounds", ge=2, default=5
    )
    keep_updates: bool = _store(
        "keep what the members gave with each round, so that it can be replayed",
        default=False,
    )

    @property
    def least_clients(self) -> int:
        """How many clients a round opens with at least."""
        return self.min_clients or max(self.min_updates, (self.clients + 1) // 2)


def defining(config: FederatedConfig) -> dict[str, Any]:
    """Return what an existing run is only continued with."""
    return catalogue.defining(config, DEFINING)


def round_rules(config: FederatedConfig) -> RoundRules:
    """Return how rounds are run.

    Raises:
        ValueError: settings contradict each other.
    """
    return RoundRules(
        num_rounds=config.rounds,
        limit_ns=_ns(config.round_limit_s),
        min_clients=config.least_clients,
        min_updates=config.min_updates,
        client_frac=config.client_frac,
        expected_clients=config.clients,
        gather_ns=_ns(config.gather_s),
        return_grace_ns=_ns(config.return_grace_s),
        max_tries=config.max_tries,
        patience_ns=_ns(config.patience_s) or None,
        seed=config.seed,
    )


def client_keys(config: FederatedConfig) -> list[str]:
    """Return the keys of the clients that a launch starts, and data is dealt to."""
    return [f"client-{index + 1}" for index in range(config.clients)]


def _ns(seconds: float) -> int:
    return int(seconds * SECOND_NS)
