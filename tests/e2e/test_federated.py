"""One server and its clients as processes: from the first round to the last fault."""

import asyncio
import contextlib
import itertools
import os
import random
import signal
import sqlite3

import pytest
import torch

from agent.rundir.attempts import read_attempt
from agent.rundir.events import (
    ClientJoined,
    ClientUpdate,
    OptimizerReset,
    RoundCommitted,
    RunEnded,
    StepDone,
    StoreStats,
)
from agent.rundir.layout import RunDir
from tests.e2e.federated import (
    ENVIRONMENT,
    Command,
    command_lines,
    free_port,
    pid_of,
    run,
    told,
    until,
)
from tests.trainer.federated.proxy import Proxy
from trainer.chunks.store import ChunkStore
from trainer.federated.config import FederatedConfig
from trainer.federated.problem import make_model, measure, server_data
from trainer.federated.replay import replay

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

KEYS = ("client-1", "client-2", "client-3")
TOY = ("--data", "linear", "--lr", "0.01", "--momentum", "0", "--local-steps", "2")


def losses(run_dir):
    return [event.loss for event in told(run_dir, "server", RoundCommitted)]


def assert_replays(run_dir, config):
    path = RunDir(run_dir).chunk_store("server")
    replayed = list(replay(path, config, server_data(config).shape))
    assert replayed
    assert [one for one in replayed if one.differing] == []


async def test_five_rounds_learn_to_read_digits(tmp_path):
    run_dir = tmp_path / "run"

    code, output = await run(
        tmp_path / "log", "launch", "fl", run_dir, "--clients", 3, "--rounds", 5
    )

    rounds = told(run_dir, "server", RoundCommitted)
    assert code == 0, output
    assert [r.members for r in rounds] == [KEYS] * 5
    assert losses(run_dir)[-1] < losses(run_dir)[0] / 2
    assert rounds[-1].accuracy_frac > 0.9
    assert "with calibration buffers" in output
    assert len(told(run_dir, "server", ClientUpdate)) == 15
    for key in KEYS:
        assert told(run_dir, key, StepDone)
        assert told(run_dir, key, OptimizerReset) == []
        assert [e.reason for e in told(run_dir, key, RunEnded)] == ["completed"]
    assert command_lines(run_dir) == {}
    assert_stored_as_measured(run_dir, rounds[-1])


def assert_stored_as_measured(run_dir, committed):
    """What the store gives back is the very model whose accuracy was told."""
    data = server_data(FederatedConfig())
    model = make_model(data.shape, seed=99)
    with ChunkStore.open(RunDir(run_dir).chunk_store("server")) as store:
        model.load_state_dict(store.get_round(committed.round_num))
    loss, accuracy = measure(model, data.held_out)
    assert (loss, accuracy) == (committed.loss, committed.accuracy_frac)


async def test_the_toy_of_eleven_parameters_and_ten_chunks(tmp_path):
    run_dir = tmp_path / "run"

    code, output = await run(
        tmp_path / "log",
        *("launch", "fl", run_dir, *TOY),
        *("--clients", 3, "--rounds", 5, "--chunk-num", 10),
    )

    assert code == 0, output
    assert losses(run_dir) == sorted(losses(run_dir), reverse=True)
    for key in KEYS:
        path = RunDir(run_dir).chunk_store(key)
        with contextlib.closing(sqlite3.connect(path)) as database:
            (num_rows,) = database.execute(
                "SELECT count(*) FROM chunk_metadata"
            ).fetchone()
        with ChunkStore.open(path) as store:
            last = store.get_round(5)
        stats = told(run_dir, key, StoreStats)[-1]
        assert num_rows == 50
        assert stats.num_rounds == 5
        assert stats.file_bytes > 0
        assert {n: tuple(t.shape) for n, t in last.items()} == {
            "fc.weight": (1, 10),
            "fc.bias": (1,),
        }
    with ChunkStore.open(RunDir(run_dir).chunk_store("server")) as store:
        model = make_model(server_data(FederatedConfig(data="linear")).shape, seed=0)
        model.load_state_dict(store.get_round(5))
    assert torch.isfinite(model.fc.weight).all()


async def test_a_finished_run_is_continued_with_more_rounds_only(tmp_path):
    run_dir = tmp_path / "run"
    launch = ("launch", "fl", run_dir, *TOY, "--clients", 1)
    await run(tmp_path / "log", *launch, "--rounds", 2)

    code, _ = await run(tmp_path / "log", *launch, "--rounds", 4)
    other, output = await run(
        tmp_path / "other", "launch", "fl", run_dir, "--data", "linear", "--clients", 1
    )

    attempt = read_attempt(RunDir(run_dir), 2)
    steps = [event.step for event in told(run_dir, "client-1", StepDone)]
    assert code == 0
    assert [e.round_num for e in told(run_dir, "server", RoundCommitted)] == [
        1,
        2,
        3,
        4,
    ]
    assert steps == list(range(1, 9))
    assert attempt.resumed_from == "round-000002"
    assert attempt.resume_command[1:5] == ("-m", "trainer", "launch", "fl")
    assert other == 66
    assert "was started with `local_steps` = `2`, this start has `0`" in output


async def test_a_launcher_that_is_asked_to_stop_returns_143_and_leaves_nothing(
    tmp_path,
):
    run_dir = tmp_path / "run"
    launch = ("launch", "fl", run_dir, *TOY, "--rounds", 100_000, "--clients", 2)
    command = await Command(tmp_path / "log").start(*launch)

    await until(lambda: len(losses(run_dir)) >= 2, what="two rounds")
    command.send(signal.SIGTERM)
    code = await command.wait()

    assert code == 143, command.output
    assert [e.reason for e in told(run_dir, "server", RunEnded)] == ["stopped"]
    for key in KEYS[:2]:
        assert [e.reason for e in told(run_dir, key, RunEnded)] == ["stopped"]
    assert command_lines(run_dir) == {}


async def test_a_launcher_that_is_killed_leaves_nothing(tmp_path, monkeypatch):
    run_dir, for_a_while = tmp_path / "run", tmp_path / "for-a-while"
    for_a_while.mkdir()
    monkeypatch.setitem(ENVIRONMENT, "TMPDIR", str(for_a_while))
    launch = ("launch", "fl", run_dir, *TOY, "--rounds", 100_000, "--clients", 2)
    command = await Command(tmp_path / "log").start(*launch)

    await until(lambda: len(losses(run_dir)) >= 2, what="two rounds")
    command.send(signal.SIGKILL)
    await command.wait()

    await until(lambda: command_lines(run_dir) == {}, what="all processes to end")
    assert list(for_a_while.glob("opsdash*")) == []


async def test_a_killed_client_is_started_again_and_keeps_its_state(tmp_path):
    run_dir = tmp_path / "run"
    launch = ("launch", "fl", run_dir, "--local-epochs", 10, "--rounds", 8)
    command = await Command(tmp_path / "log").start(
        *launch, "--max-restarts", 2, "--return-grace-s", 60, "--keep-updates"
    )

    await until(lambda: len(losses(run_dir)) >= 2, what="two rounds")
    os.kill(pid_of(run_dir, "client-2"), signal.SIGKILL)
    code = await command.wait()

    rounds = told(run_dir, "server", RoundCommitted)
    joined = [e for e in told(run_dir, "server", ClientJoined) if e.is_return]
    assert code == 0, command.output
    assert "client-2 was ended by SIGKILL" in command.output
    assert [e.client for e in joined] == ["client-2"]
    assert [r.members for r in rounds] == [KEYS] * 8
    assert told(run_dir, "client-2", OptimizerReset) == []
    assert_replays(run_dir, FederatedConfig(local_epochs=10))


async def test_a_server_that_is_killed_before_it_listens_is_started_again(tmp_path):
    run_dir = tmp_path / "run"
    command = await Command(tmp_path / "log").start(
        *("launch", "fl", run_dir, "--rounds", 1, "--max-restarts", 2), *TOY
    )

    await until(
        lambda: any("fl-server" in words for words in command_lines(run_dir).values()),
        what="the server",
    )
    os.kill(pid_of(run_dir, "fl-server"), signal.SIGKILL)
    code = await command.wait()

    assert code == 0, command.output
    assert command.output.index("ended by SIGKILL") < command.output.index("listening")
    assert len(told(run_dir, "server", RoundCommitted)) == 1


async def test_a_killed_server_goes_on_after_the_last_committed_round(tmp_path):
    run_dir = tmp_path / "run"
    launch = ("launch", "fl", run_dir, "--local-epochs", 10, "--rounds", 8)
    command = await Command(tmp_path / "log").start(
        *launch, "--max-restarts", 2, "--keep-updates"
    )

    await until(lambda: len(losses(run_dir)) >= 3, what="three rounds")
    os.kill(pid_of(run_dir, "fl-server"), signal.SIGKILL)
    code = await command.wait()

    rounds = told(run_dir, "server", RoundCommitted)
    assert code == 0, command.output
    assert [r.round_num for r in rounds] == list(range(1, 9))
    assert [r.members for r in rounds] == [KEYS] * 8
    assert read_attempt(RunDir(run_dir), 2).resumed_step >= 3
    for key in KEYS:
        assert told(run_dir, key, OptimizerReset) == []
    assert_replays(run_dir, FederatedConfig(local_epochs=10))


async def test_a_federation_beyond_loopback_needs_tls_and_tokens(tmp_path):
    refused, output = await run(
        tmp_path / "log", "fl-server", tmp_path / "run", "--listen", "0.0.0.0:0"
    )
    also, said = await run(
        tmp_path / "other",
        *("fl-client", tmp_path / "run", "--key", "a", "--server", "192.0.2.1:1"),
    )

    assert refused == also == 64
    assert "needs TLS and a token for each client" in output
    assert "needs TLS and a token" in said


class Chaos:
    """A server, its clients behind relays, and a seeded list of what goes wrong."""

    def __init__(self, tmp_path, seed):
        self.chance = random.Random(seed)
        self.tmp_path = tmp_path
        self.run_dir = tmp_path / "run"
        self.port = free_port()
        self.config = FederatedConfig(rounds=10, local_epochs=10)
        self.commands, self.proxies, self.ports = {}, {}, {}

    async def start(self, node):
        command = Command(self.tmp_path / f"{node}.log")
        if node == "server":
            arguments = [
                "fl-server",
                self.run_dir,
                "--listen",
                f"127.0.0.1:{self.port}",
            ]
            arguments += ["--rounds", 10, "--local-epochs", 10, "--keep-updates"]
            arguments += ["--chunk-keep-rounds", 100, "--round-limit-s", 4]
            arguments += ["--max-tries", 100, "--min-clients", 1, "--gather-s", 20]
            arguments += ["--return-grace-s", self.chance.choice([0.1, 1, 3])]
        else:
            arguments = ["fl-client", self.run_dir, "--key", node, "--give-up-s", 15]
            arguments += ["--server", f"127.0.0.1:{self.ports[node]}"]
        self.commands[node] = await command.start(*arguments)

    async def run(self):
        """Run to the end; return the server's last exit code."""
        for key in KEYS:
            self.proxies[key] = Proxy(self.port)
            self.ports[key] = await self.proxies[key].start()
        try:
            for node in ("server", *KEYS):
                await self.start(node)
            for index in itertools.count():
                if index < 8:
                    await self.hurt()
                if not await self.keep_alive():
                    break
            for key in KEYS:
                await self.commands[key].wait()
            return await self.commands["server"].wait()
        finally:
            for command in self.commands.values():
                await command.end()
            for proxy in self.proxies.values():
                await proxy.stop()

    async def hurt(self):
        """Do one thing to one process, and put it right after a moment."""
        fault = self.chance.choice(["cut", "stall", "kill", "kill", "stop"])
        node = self.chance.choice(["server", *KEYS, *KEYS])
        key = self.chance.choice(KEYS)
        await self.pause(0.1, 1.5)
        if fault == "cut":
            self.proxies[key].cut()
        elif fault == "stall":
            self.proxies[key].stall()
        else:
            self.commands[node].send(
                signal.SIGKILL if fault == "kill" else signal.SIGSTOP
            )
        await self.pause(0.1, 2.0)
        self.proxies[key].mend()
        self.proxies[key].flow()
        self.commands[node].send(signal.SIGCONT)

    async def keep_alive(self):
        """Start again what was killed; False: the server has ended by itself."""
        await self.pause(0.05, 0.1)
        for node, command in list(self.commands.items()):
            if not command.is_up and command.process.returncode < 0:
                await command.wait()
                await self.start(node)
        return self.commands["server"].is_up

    async def pause(self, low, high):
        await asyncio.sleep(self.chance.uniform(low, high))


async def survive(tmp_path, seed):
    chaos = Chaos(tmp_path, seed)

    code = await chaos.run()

    rounds = told(chaos.run_dir, "server", RoundCommitted)
    logs = "\n".join(path.read_text() for path in tmp_path.glob("*.log"))
    with ChunkStore.open(RunDir(chaos.run_dir).chunk_store("server")) as store:
        durable = {row.round_num: row.members for row in store.rounds()}
    assert code == 0, logs
    assert sorted(durable) == list(range(1, 11))
    # Whatever was killed between a commit and its event, each is told once.
    assert [r.round_num for r in rounds] == list(range(1, 11))
    assert {r.round_num: r.members for r in rounds} == durable
    assert "Traceback" not in logs
    assert_replays(chaos.run_dir, chaos.config)
    assert command_lines(chaos.run_dir) == {}


@pytest.mark.parametrize("seed", range(3))
async def test_whatever_is_done_to_it_every_run_ends(tmp_path, seed):
    await survive(tmp_path, seed)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(100, 120))
async def test_whatever_is_done_to_it_every_run_ends_in_full(tmp_path, seed):
    await survive(tmp_path, seed)
