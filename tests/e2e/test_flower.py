"""The same federation on Flower's SuperLink and SuperNodes gives the same bits."""

import asyncio
import contextlib
import os
import random
import shutil
import socket
import sys
from pathlib import Path

import pytest

from agent.rundir.attempts import read_attempt
from agent.rundir.events import (
    ClientJoined,
    ClientLost,
    OptimizerReset,
    RoundCommitted,
    RoundStarted,
    RunEnded,
)
from agent.rundir.layout import RunDir
from tests.e2e.federated import ENVIRONMENT, command_lines, told, until
from tests.trainer.federated.bench import as_update, global_tensors
from trainer.federated.config import FederatedConfig, client_keys
from trainer.federated.global_model import GlobalModel
from trainer.federated.learner import Learner
from trainer.federated.problem import client_data, server_data
from trainer.federated.replay import replay
from trainer.federated.workbench import Workbench

ROOT = Path(__file__).resolve().parents[2]
CONFIG = FederatedConfig(
    rounds=3,
    clients=2,
    min_clients=2,
    data="linear",
    lr=0.01,
    local_steps=4,
    keep_updates=True,
)
OTHERS = "min_clients = 2\nlr = 0.01\nlocal_steps = 4\nkeep_updates = true\n"
PLACES = f"{sys.prefix}/flower/bin{os.pathsep}{sys.prefix}/bin"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        shutil.which("flwr", path=PLACES) is None,
        reason="Flower is not installed: make flower",
    ),
]


def free_ports(num):
    """Find neighbours that nobody is given by chance: below the ephemeral range."""
    for first in random.sample(range(15_000, 30_000, num), 1_000):
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
            for port in range(first, first + num):
                found = stack.enter_context(socket.socket())
                found.bind(("127.0.0.1", port))
            return first
    raise AssertionError("no free ports")


def expected_digests(path):
    """Run the same rounds in this process, without any network."""
    data = server_data(CONFIG)
    model = GlobalModel(path, run_id="expected", config=CONFIG, data=data)
    benches = {
        key: Workbench(
            Learner(CONFIG, data.shape, key, client_data(CONFIG, key, None)), CONFIG
        )
        for key in client_keys(CONFIG)
    }
    for round_num in range(1, CONFIG.rounds + 1):
        updates = []
        for key, bench in benches.items():
            bench.prepare(round_num, global_tensors(model))
            done = bench.train(
                round_num,
                1,
                model.packed.digest,
                is_cancelled=lambda: False,
                on_step=lambda _: None,
            )
            num_examples = done.report.num_examples
            updates.append(as_update(bench, key, num_examples=num_examples))
        yield model.advance(round_num, updates).packed.digest
        for bench in benches.values():
            bench.acknowledge(round_num)
    model.close()


async def test_three_rounds_on_flower_equal_three_rounds_of_our_own(tmp_path):
    run_dir = tmp_path / "run"
    log = (tmp_path / "log").open("wb")
    others = tmp_path / "others.toml"
    others.write_text(OTHERS)

    process = await asyncio.create_subprocess_exec(
        *(ROOT / "examples/flower/run.sh", run_dir, f'config="{others}"'),
        *("clients=2", 'data="linear"'),
        stdout=log,
        stderr=log,
        env={
            **ENVIRONMENT,
            "PATH": f"{PLACES}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "PORT": str(free_ports(3)),
            "NODES": "2",
        },
    )
    code = await process.wait()
    log.close()

    rounds = told(run_dir, "server", RoundCommitted)
    output = (tmp_path / "log").read_text(errors="replace")
    assert code == 0, output
    keys = tuple(client_keys(CONFIG))
    joined = told(run_dir, "server", ClientJoined)
    assert [r.members for r in rounds] == [keys] * 3, output
    assert [r.clients for r in told(run_dir, "server", RoundStarted)] == [keys] * 3
    assert sorted(e.client for e in joined) == list(keys)
    assert told(run_dir, "server", ClientLost) == []
    digests = list(expected_digests(tmp_path / "expected" / "expected_chunks.db"))
    assert [r.model_digest for r in rounds] == digests
    for key in client_keys(CONFIG):
        assert told(run_dir, key, OptimizerReset) == []
        assert told(run_dir, key, RunEnded)[-1].reason == "completed"
    attempt = read_attempt(RunDir(run_dir), 1)
    assert attempt.versions["flwr"].startswith("1.41.")
    store = RunDir(run_dir).chunk_store("server")
    replayed = list(replay(store, CONFIG, server_data(CONFIG).shape))
    assert [one.differing for one in replayed] == [()] * 3
    await until(lambda: not command_lines(run_dir), what="all processes to end")
