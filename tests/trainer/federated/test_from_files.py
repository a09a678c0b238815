"""Federations that learn from files: LEAF, NumPy and CSV."""

import json

import numpy as np
import pytest
import torch

from agent.rundir.events import ClientUpdate
from tests.trainer.federated.federation import (
    KEYS,
    assert_replays,
    committed,
    events,
    federation,
    of_kind,
    quick,
)
from trainer.data.digits import load_digits

pytestmark = pytest.mark.timeout(120)


def some_digits(num, seed):
    digits = load_digits()
    places = torch.randperm(len(digits), generator=torch.Generator().manual_seed(seed))
    return digits.take(places[:num])


def write_leaf(folder):
    for part, num in (("train", 400), ("test", 120)):
        (folder / part).mkdir(parents=True)
        examples = some_digits(num, num)
        users = {
            f"writer-{n}": {
                "x": examples.inputs[n::6].flatten(1).tolist(),
                "y": examples.labels[n::6].tolist(),
            }
            for n in range(6)
        }
        data = {"users": list(users), "user_data": users}
        (folder / part / "all_data.json").write_text(json.dumps(data))


def write_arrays(folder, save):
    folder.mkdir()
    for number, name in enumerate((*KEYS, "test")):
        examples = some_digits(150, number)
        save(folder / name, examples.inputs[:, 0].numpy(), examples.labels.numpy())


def write_npz(folder):
    write_arrays(folder, lambda path, x, y: np.savez(f"{path}.npz", x=x, y=y))


def write_csv(folder):
    def save(path, x, y):
        rows = np.column_stack([x.reshape(len(x), -1), y])
        np.savetxt(f"{path}.csv", rows, delimiter=",")

    write_arrays(folder, save)


@pytest.mark.parametrize("write", [write_leaf, write_npz, write_csv])
async def test_a_federation_learns_from_files(tmp_path, write):
    write(tmp_path / "data")
    config = quick(
        data=str(tmp_path / "data"),
        lr=0.05,
        local_steps=8,
        batch_size=32,
        proximal=0.01,
        server_momentum=0.2,
    )

    async with federation(tmp_path / "run", config) as (server, _):
        finish = await server.over

    rounds = committed(tmp_path / "run")
    updates = of_kind(events(tmp_path / "run", "server"), ClientUpdate)
    assert finish.reason == "completed"
    assert [r.members for r in rounds] == [KEYS] * 4
    assert rounds[-1].loss < rounds[0].loss
    assert rounds[-1].accuracy_frac > 0.7
    assert all(update.accuracy_frac is not None for update in updates)
    assert_replays(tmp_path / "run", config)
