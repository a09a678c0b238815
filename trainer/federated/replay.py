"""Compute committed rounds again from their members' updates, bit for bit.

Possible where the server kept the updates (`--keep-updates`). A round that
does not come out the same was not made of what its record says.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from agent.rundir.chunks.reader import ChunkStoreReader
from agent.rundir.chunks.records import RoundRow
from trainer.chunks.restore import load_optimizer, load_tensors
from trainer.chunks.snapshot import model_tensors
from trainer.federated.aggregate import Update, fedavg
from trainer.federated.config import FederatedConfig
from trainer.federated.global_model import server_momentum
from trainer.federated.local import averaged_names
from trainer.federated.problem import Shape, make_model
from trainer.federated.server_store import UPDATES, VELOCITY


@dataclass(frozen=True)
class Replayed:
    """One round, computed again."""

    round_num: int
    members: tuple[str, ...]
    differing: tuple[str, ...]
    """Tensors that came out otherwise; empty: the round is what it says."""


def replay(path: Path, config: FederatedConfig, shape: Shape) -> Iterator[Replayed]:
    """Yield every round whose base and updates the server's store still holds.

    Raises:
        RunDirError: the store cannot be read.
    """
    with ChunkStoreReader(path) as reader:
        rows = {row.round_num: row for row in reader.rounds()}
        for round_num, row in sorted(rows.items()):
            beside = load_optimizer(reader, round_num) or {}
            has_base = round_num == 1 or round_num - 1 in rows
            if has_base and beside.get(UPDATES):
                yield _replayed(reader, row, beside, config, shape)


def _replayed(
    reader: ChunkStoreReader,
    row: RoundRow,
    beside: dict[str, Any],
    config: FederatedConfig,
    shape: Shape,
) -> Replayed:
    model = make_model(shape, config.seed)
    kinds = model_tensors(model)
    names = averaged_names(kinds, average_buffers=config.average_buffers)
    base: dict[str, Tensor] = kinds.tensors
    velocity: dict[str, Tensor] = {}
    if row.round_num > 1:
        base = load_tensors(reader, row.round_num - 1)
        before = load_optimizer(reader, row.round_num - 1) or {}
        velocity = before.get(VELOCITY, {})
    updates = [
        Update(
            client=client, tensors=kept["tensors"], num_examples=kept["num_examples"]
        )
        for client, kept in beside[UPDATES].items()
    ]
    again = fedavg(
        base, updates, names, momentum=server_momentum(config), velocity=velocity
    )
    stored = load_tensors(reader, row.round_num)
    differing = [n for n in names if not _is_same(again.tensors[n], stored[n])]
    if set(row.members or ()) != {update.client for update in updates}:
        differing.append("members")
    return Replayed(row.round_num, tuple(row.members or ()), tuple(differing))


def _is_same(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and torch.equal(a, b)
