"""Server and clients over real sockets, with the network and time in our hand."""

import asyncio
import contextlib
import json
import random
import subprocess
import threading

import numpy as np
import pytest
import torch

from agent.rundir.attempts import read_identity
from agent.rundir.chunks.reader import ChunkStoreReader
from agent.rundir.chunks.records import OPTIMIZER, PARAMETER
from agent.rundir.errors import NotARunError
from agent.rundir.events import (
    ChunkDamaged,
    ChunkRepaired,
    ClientJoined,
    ClientLost,
    ClientRefused,
    ClientUpdate,
    EvalDone,
    OptimizerReset,
    RequestDone,
    RoundAbandoned,
    RoundCommitted,
    RoundStarted,
    RunEnded,
    StepDone,
    StoreStats,
    UpdateRefused,
)
from agent.rundir.layout import RunDir
from agent.rundir.requests import write_request
from agent.start import begin_run
from tests.trainer.chunks.store_faults import flip_bit, lose_chunk
from tests.trainer.federated.bench import toy
from tests.trainer.federated.federation import (
    events,
    federation,
    of_kind,
    serving,
    taking_part,
    until,
)
from trainer.chunks.store import ChunkStore
from trainer.data.digits import load_digits
from trainer.federated.messages import PROTOCOL, Hello, encode
from trainer.federated.problem import server_data
from trainer.federated.replay import replay
from trainer.federated.security import (
    ClientSecurity,
    Endpoint,
    ServerSecurity,
    read_tokens,
)
from trainer.federated.transport import DisconnectedError, TurnedAwayError, connect

pytestmark = pytest.mark.timeout(120)


KEYS = ("client-1", "client-2", "client-3")


def quick(**changes):
    values = {"rounds": 4, "gather_s": 20.0, "return_grace_s": 0.05, "lr": 0.01}
    return toy(**(values | changes))


def committed(run_dir, attempt=1):
    return of_kind(events(run_dir, "server", attempt), RoundCommitted)


def assert_replays(run_dir, config):
    path = RunDir(run_dir).chunk_store("server")
    replayed = list(replay(path, config, server_data(config).shape))
    assert replayed
    assert all(one.differing == () for one in replayed)


class Gate:
    """Holds a client's training in chosen rounds until it is opened."""

    def __init__(self, *rounds):
        self.reached = {round_num: threading.Event() for round_num in rounds}
        self._open = {round_num: threading.Event() for round_num in rounds}

    def __call__(self, round_num):
        if round_num in self._open:
            self.reached[round_num].set()
            assert self._open[round_num].wait(60)

    def open(self, round_num):
        self._open[round_num].set()

    def open_all(self):
        for gate in self._open.values():
            gate.set()

    async def wait_for(self, round_num):
        await until(self.reached[round_num].is_set, what=f"round {round_num}")


async def test_a_federation_runs_to_its_end_and_tells_all_of_it(tmp_path):
    config = quick()

    async with federation(tmp_path, config) as (server, clients):
        finish = await server.over
        overs = [await client.task for client in clients.values()]

    told = events(tmp_path, "server")
    rounds = of_kind(told, RoundCommitted)
    assert finish.reason == "completed"
    assert [over.reason for over in overs] == ["completed"] * 3
    assert [r.round_num for r in rounds] == [1, 2, 3, 4]
    assert {r.members for r in rounds} == {tuple(clients)}
    assert [r.loss for r in rounds] == sorted((r.loss for r in rounds), reverse=True)
    assert [r.round_num for r in of_kind(told, RoundStarted)] == [1, 2, 3, 4]
    assert len(of_kind(told, ClientUpdate)) == 12
    assert len(of_kind(told, StoreStats)) == 4
    assert of_kind(told, UpdateRefused) == []
    assert told[-1] == of_kind(told, RunEnded)[0]
    for key in clients:
        mine = events(tmp_path, key)
        assert of_kind(mine, OptimizerReset) == []
        assert [e.step for e in of_kind(mine, StepDone)] == list(range(1, 9))
        assert len(of_kind(mine, StoreStats)) == 4
        assert mine[-1].reason == "completed"
    assert_replays(tmp_path, config)


async def test_a_part_of_the_clients_is_asked_in_each_round(tmp_path):
    config = quick(rounds=8, client_frac=0.5, min_clients=1)

    async with federation(tmp_path, config) as (server, _):
        finish = await server.over

    asked = [e.clients for e in of_kind(events(tmp_path, "server"), RoundStarted)]
    resets = [e for k in KEYS for e in of_kind(events(tmp_path, k), OptimizerReset)]
    assert finish.reason == "completed"
    assert {len(clients) for clients in asked} == {2}
    assert len(set(asked)) > 1
    assert [r.members for r in committed(tmp_path)] == asked
    # Whoever sat a round out has missed it.
    assert resets
    assert all(e.reason.startswith("missed ") for e in resets)
    assert_replays(tmp_path, config)


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


async def test_a_client_that_missed_rounds_resets_before_it_counts_as_back(tmp_path):
    gates = {"client-1": Gate(2), "client-2": Gate(4)}
    config = quick(rounds=5, momentum=0.9)

    async with federation(tmp_path, config, holds=gates) as (server, clients):
        await gates["client-1"].wait_for(2)
        clients["client-1"].proxy.cut()
        await gates["client-2"].wait_for(4)
        gates["client-1"].open(2)
        clients["client-1"].proxy.mend()
        await until(
            lambda: len(of_kind(events(tmp_path, "server"), ClientJoined)) == 4,
            what="the return",
        )
        gates["client-2"].open(4)
        finish = await server.over

    told, mine = events(tmp_path, "server"), events(tmp_path, "client-1")
    (reset,) = of_kind(mine, OptimizerReset)
    back = of_kind(told, ClientJoined)[-1]
    assert finish.reason == "completed"
    assert reset.rounds_missed == 2
    assert reset.reason == "reconnected after missing 2 rounds"
    assert reset.before["momentum_buffer"] > 0
    assert reset.after["momentum_buffer"] == 0
    assert reset.model_digest == committed(tmp_path)[2].model_digest
    assert reset.data_position == 32
    assert reset.seed == config.seed
    assert reset.round_num == 3
    assert (back.client, back.is_return, back.last_round) == ("client-1", True, 1)
    assert reset.mono_ns < back.mono_ns
    assert [len(r.members) for r in committed(tmp_path)] == [3, 2, 2, 2, 3]
    assert_replays(tmp_path, config)


async def test_a_cut_between_two_rounds_costs_nothing(tmp_path):
    gates = {"client-2": Gate(2)}
    config = quick(return_grace_s=30.0)

    async with federation(tmp_path, config, holds=gates) as (server, clients):
        await gates["client-2"].wait_for(2)
        clients["client-1"].proxy.cut()
        await until(
            lambda: of_kind(events(tmp_path, "server"), ClientLost), what="the loss"
        )
        clients["client-1"].proxy.mend()
        await until(
            lambda: len(of_kind(events(tmp_path, "server"), ClientJoined)) == 4,
            what="the return",
        )
        gates["client-2"].open(2)
        await server.over

    assert of_kind(events(tmp_path, "client-1"), OptimizerReset) == []
    assert [len(r.members) for r in committed(tmp_path)] == [3] * 4


async def test_patience_with_the_server_begins_when_the_connection_breaks(tmp_path):
    """However long it held: a client that was welcome tries again."""
    gates = {"client-1": Gate(2)}
    config = quick(return_grace_s=30.0)

    async with federation(tmp_path, config, holds=gates) as (server, clients):
        await gates["client-1"].wait_for(2)
        clients["client-1"].membership._give_up_s = 0.0
        clients["client-1"].proxy.cut()
        clients["client-1"].proxy.mend()
        gates["client-1"].open(2)
        finish = await server.over
        over = await clients["client-1"].task

    assert (finish.reason, over.reason) == ("completed", "completed")
    assert [len(r.members) for r in committed(tmp_path)] == [3] * 4


async def test_training_goes_on_while_the_connection_is_gone(tmp_path):
    gates = {"client-1": Gate(2)}
    config = quick(return_grace_s=30.0)

    async with federation(tmp_path, config, holds=gates) as (server, clients):
        await gates["client-1"].wait_for(2)
        clients["client-1"].proxy.cut()
        await until(
            lambda: of_kind(events(tmp_path, "server"), ClientLost), what="the loss"
        )
        clients["client-1"].proxy.mend()
        await until(
            lambda: len(of_kind(events(tmp_path, "server"), ClientJoined)) == 4,
            what="the return",
        )
        gates["client-1"].open(2)
        await server.over

    steps = of_kind(events(tmp_path, "client-1"), StepDone)
    assert [e.step for e in steps] == list(range(1, 9))
    assert [len(r.members) for r in committed(tmp_path)] == [3] * 4


async def test_a_round_ends_at_its_deadline_with_a_client_that_is_silent(tmp_path):
    gates = {"client-3": Gate(2)}
    config = quick(round_limit_s=1.0)

    async with federation(tmp_path, config, holds=gates) as (server, _):
        await until(lambda: len(committed(tmp_path)) >= 2, what="round 2")
        gates["client-3"].open(2)
        finish = await server.over

    rounds = committed(tmp_path)
    assert finish.reason == "completed"
    assert rounds[1].reason == "deadline"
    assert rounds[1].members == ("client-1", "client-2")
    assert rounds[1].round_ns >= 1_000_000_000
    (reset,) = of_kind(events(tmp_path, "client-3"), OptimizerReset)
    assert reset.reason == "missed 1 round"
    updates = of_kind(events(tmp_path, "server"), ClientUpdate)
    missed = [e.rounds_missed for e in updates if e.client == "client-3"]
    assert missed == [None, 1, 0]
    assert {e.rounds_missed for e in updates if e.client == "client-1"} == {None, 0}
    assert_replays(tmp_path, config)


async def test_a_deadline_needs_no_message_to_come(tmp_path):
    """Nobody says a word: the round ends all the same, and then the federation."""
    gates = {key: Gate(1) for key in ("client-1", "client-2", "client-3")}
    config = quick(round_limit_s=0.3, max_tries=2)

    async with federation(tmp_path, config, holds=gates) as (server, _):
        finish = await server.over
        for gate in gates.values():
            gate.open(1)

    assert finish.reason == "error"
    assert finish.detail == "0 of at least 1 updates within 0.3 s, 2 times"
    abandoned = of_kind(events(tmp_path, "server"), RoundAbandoned)
    assert [(e.round_num, e.num_updates, e.num_selected) for e in abandoned] == [
        (1, 0, 3)
    ] * 2
    assert abandoned[0].reason == "0 of at least 1 updates within 0.3 s"


async def test_an_update_that_breaks_off_goes_on_where_it_stopped(tmp_path):
    gates = {"client-1": Gate(1)}
    config = quick(
        data="digits", local_steps=1, alpha=100.0, rounds=1, return_grace_s=30.0
    )

    async with federation(tmp_path, config, holds=gates) as (server, clients):
        proxy = clients["client-1"].proxy
        await gates["client-1"].wait_for(1)
        proxy.limit_bytes = proxy.num_bytes + 24_000
        gates["client-1"].open(1)
        await until(
            lambda: of_kind(events(tmp_path, "server"), ClientLost), what="the cut"
        )
        proxy.mend()
        await server.over

    updates = {e.client: e for e in of_kind(events(tmp_path, "server"), ClientUpdate)}
    assert len(updates) == 3
    assert 0 < updates["client-1"].num_bytes < updates["client-2"].num_bytes
    (evaluated,) = of_kind(events(tmp_path, "server"), EvalDone)
    assert evaluated.buffers == "calibration"
    assert_replays(tmp_path, config)


async def test_it_goes_on_where_it_stopped_if_only_the_client_saw_it_break(tmp_path):
    gates = {"client-1": Gate(1)}
    config = quick(
        data="digits", local_steps=1, alpha=100.0, rounds=1, return_grace_s=30.0
    )

    async with federation(tmp_path, config, holds=gates) as (server, clients):
        proxy = clients["client-1"].proxy
        await gates["client-1"].wait_for(1)
        proxy.is_unseen = True
        proxy.limit_bytes = proxy.num_bytes + 24_000
        gates["client-1"].open(1)
        await until(lambda: proxy.is_cut, what="the cut")
        proxy.mend()
        await server.over

    told = events(tmp_path, "server")
    updates = {e.client: e for e in of_kind(told, ClientUpdate)}
    (lost,) = of_kind(told, ClientLost)
    assert lost.reason == "another session began"
    assert len(updates) == 3
    assert 0 < updates["client-1"].num_bytes < updates["client-2"].num_bytes


async def test_an_update_that_is_not_finite_never_counts(tmp_path):
    config = quick(lr=1e30, momentum=0.0, local_steps=4, max_tries=2)

    async with federation(tmp_path, config) as (server, _):
        finish = await server.over

    refused = of_kind(events(tmp_path, "server"), UpdateRefused)
    assert finish.reason == "error"
    assert committed(tmp_path) == []
    assert len(refused) == 6
    assert all("is not finite" in e.reason for e in refused)
    assert finish.detail.startswith("0 of at least 1 updates, and nobody else")


async def test_a_session_that_meets_a_fault_of_the_server_ends_and_says_so(
    tmp_path, monkeypatch
):
    def fail(*_):
        raise ValueError("a fault")

    monkeypatch.setattr("trainer.federated.coordinator.examine", fail)
    config = quick(clients=1)

    async with (
        serving(tmp_path, config) as server,
        taking_part(tmp_path, "client-1", server.port) as client,
    ):
        with pytest.raises(TurnedAwayError, match="ValueError: a fault"):
            await client.task

    (lost,) = of_kind(events(tmp_path, "server"), ClientLost)
    assert lost.reason == "ValueError: a fault"


async def test_a_second_client_with_the_same_key_takes_the_first_ones_place(tmp_path):
    gates = {"client-1": Gate(1)}
    config = quick(rounds=1)
    elsewhere = tmp_path / "elsewhere"

    async with federation(tmp_path, config, holds=gates) as (server, clients):
        await gates["client-1"].wait_for(1)
        async with taking_part(elsewhere, "client-1", server.port) as second:
            finish = await server.over
            over = await second.task
        gates["client-1"].open(1)
        with pytest.raises(TurnedAwayError, match="another session of this client"):
            await clients["client-1"].task

    assert finish.reason == "completed"
    assert over.reason == "completed"


async def test_a_client_on_a_host_of_its_own_leaves_a_run_there(tmp_path):
    elsewhere = tmp_path / "elsewhere" / "run"

    async with serving(tmp_path / "run", quick(clients=1, rounds=1)) as server:
        async with taking_part(elsewhere, "client-1", server.port) as client:
            await client.task
        run_id = server.start_.identity.run_id

    found = read_identity(RunDir(elsewhere))
    assert (found.run_id, found.kind) == (run_id, "federated")
    assert events(elsewhere, "client-1")[-1].reason == "completed"


async def test_a_client_keeps_nothing_in_the_directory_of_another_run(tmp_path):
    other = begin_run(tmp_path / "other", kind="federated")
    other.release()

    async with (
        serving(tmp_path / "run", quick(clients=1)) as server,
        taking_part(tmp_path / "other", "client-1", server.port) as client,
    ):
        with pytest.raises(NotARunError, match="belongs to another run"):
            await client.task

    assert not RunDir(tmp_path / "other").chunks.exists()


async def test_a_wrong_token_is_turned_away_and_the_right_one_let_in(tmp_path):
    tokens = tmp_path / "tokens.json"
    tokens.write_text('{"client-1": "the-right-token-for-1"}')
    tokens.chmod(0o600)
    run_dir = tmp_path / "run"
    config = quick(clients=1, rounds=1)
    asked = ServerSecurity(digests=read_tokens(tokens))
    wrong = ClientSecurity(token="wrong")
    right = ClientSecurity(token="the-right-token-for-1")

    async with serving(run_dir, config, security=asked) as server:
        async with taking_part(
            run_dir, "client-1", server.port, security=wrong
        ) as client:
            with pytest.raises(TurnedAwayError, match="with this token"):
                await client.task
        async with taking_part(
            run_dir, "client-1", server.port, security=right
        ) as client:
            over = await client.task

    told = events(run_dir, "server")
    (refused,) = of_kind(told, ClientRefused)
    assert over.reason == "completed"
    assert (refused.client, refused.num_untold) == ("client-1", 0)
    assert refused.reason == "its token is not that of this key"
    assert len(of_kind(told, ClientJoined)) == 1


@pytest.mark.parametrize("key", ["server", "../client", ""])
async def test_a_key_that_cannot_name_a_client_is_turned_away_and_told(tmp_path, key):
    async with serving(tmp_path, quick()) as server:
        endpoint = Endpoint("127.0.0.1", server.port)
        async with connect(endpoint, ClientSecurity(), key) as link:
            await link.write(encode(Hello(PROTOCOL, "s")))
            with pytest.raises(TurnedAwayError, match="cannot name a client"):
                await link.read()

    (refused,) = of_kind(events(tmp_path, "server"), ClientRefused)
    assert (refused.client, refused.reason) == (key, f"`{key}` cannot name a client")


async def test_a_client_of_another_version_is_turned_away_and_told(tmp_path):
    async with serving(tmp_path, quick()) as server:
        endpoint = Endpoint("127.0.0.1", server.port)
        async with connect(endpoint, ClientSecurity(), "client-1") as link:
            await link.write(encode(Hello(PROTOCOL + 1, "s")))
            with pytest.raises(TurnedAwayError, match="the server speaks protocol"):
                await link.read()

    told = events(tmp_path, "server")
    (refused,) = of_kind(told, ClientRefused)
    assert refused.client == "client-1"
    assert f"this client {PROTOCOL + 1}" in refused.reason
    assert of_kind(told, ClientLost) == []


def make_certificate(folder, address):
    """Return a chain for a server at this address, and its key."""
    folder.mkdir(exist_ok=True)
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes"]
    command += ["-days", "2", "-subj", "/CN=localhost"]
    command += ["-addext", f"subjectAltName=IP:{address}"]
    command += ["-keyout", "key.pem", "-out", "cert.pem"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return (folder / "cert.pem").read_bytes(), (folder / "key.pem").read_bytes()


async def test_tls_lets_in_who_trusts_the_server_and_nobody_else(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr("trainer.federated.transport.CONNECT_LIMIT_S", 1.0)
    chain, key = make_certificate(tmp_path / "tls", "127.0.0.1")
    run_dir = tmp_path / "run"
    config = quick(clients=1, rounds=1)
    shown = ServerSecurity(certificate=chain, private_key=key)
    trusting = ClientSecurity(authority=chain)

    async with serving(run_dir, config, security=shown) as server:
        async with taking_part(run_dir, "client-1", server.port) as client:
            client.membership._give_up_s = 0.5
            with pytest.raises(DisconnectedError, match="no server answers"):
                await client.task
        async with taking_part(
            run_dir, "client-1", server.port, security=trusting
        ) as client:
            over = await client.task

    assert over.reason == "completed"
    assert capsys.readouterr().out.count("trying for 0.5 s") == 1


@pytest.mark.parametrize(
    ("address", "is_other_authority", "told"),
    [("192.0.2.1", False, "IP address mismatch"), ("127.0.0.1", True, "self-signed")],
)
async def test_a_server_that_cannot_be_trusted_is_left_at_once(
    tmp_path, monkeypatch, address, is_other_authority, told
):
    monkeypatch.setattr("trainer.federated.transport.CONNECT_LIMIT_S", 1.0)
    chain, key = make_certificate(tmp_path / "tls", address)
    authority = chain
    if is_other_authority:
        authority, _ = make_certificate(tmp_path / "other", address)
    shown = ServerSecurity(certificate=chain, private_key=key)

    async with (
        serving(tmp_path / "run", quick(clients=1), security=shown) as server,
        taking_part(
            tmp_path / "run",
            "client-1",
            server.port,
            security=ClientSecurity(authority=authority),
        ) as client,
    ):
        with pytest.raises(TurnedAwayError, match=f"is not trusted: .*{told}"):
            await client.task


async def test_clients_follow_a_server_that_comes_back(tmp_path):
    gate = Gate(3)
    config = quick(rounds=5)

    async with contextlib.AsyncExitStack() as stack:
        async with serving(tmp_path, config) as server:
            clients = [
                await stack.enter_async_context(
                    taking_part(tmp_path, f"client-{n}", server.port, hold=gate)
                )
                for n in (1, 2, 3)
            ]
            await gate.wait_for(3)
            # As after a kill: streams break, and nobody is told why.
            for client in clients:
                client.proxy.cut()
            await until(
                lambda: not server.coordinator._attendance._peers, what="the loss"
            )
        async with serving(tmp_path, config, port=server.port) as again:
            gate.open(3)
            for client in clients:
                client.proxy.mend()
            finish = await again.over
            overs = [await client.task for client in clients]

    assert finish.reason == "completed"
    assert [over.reason for over in overs] == ["completed"] * 3
    assert [r.round_num for r in committed(tmp_path, 1)] == [1, 2]
    assert [r.round_num for r in committed(tmp_path, 2)] == [3, 4, 5]
    for client in clients:
        mine = events(tmp_path, client.key, 2)
        assert of_kind(mine, OptimizerReset) == []
        assert of_kind(mine, StepDone)[0].step == 5
    assert_replays(tmp_path, config)


async def test_clients_follow_a_server_that_lost_its_newest_round(tmp_path):
    async with federation(tmp_path, quick(rounds=3)) as (server, _):
        await server.over
    path = RunDir(tmp_path).chunk_store("server")
    damaged = chunk_of(path, 3, PARAMETER)
    flip_bit(path, damaged)

    async with federation(tmp_path, quick(rounds=6)) as (server, _):
        finish = await server.over

    told = events(tmp_path, "server", 2)
    rounds = committed(tmp_path, 2)
    assert finish.reason == "completed"
    assert [(e.digest, e.reason) for e in of_kind(told, ChunkDamaged)] == [
        (damaged, "damaged")
    ]
    assert [(r.round_num, r.reason, r.source) for r in rounds] == [
        (4, "restored", "server round 2"),
        (5, "complete", None),
        (6, "complete", None),
    ]
    assert rounds[0].model_digest == committed(tmp_path)[1].model_digest
    assert rounds[1].members == KEYS
    for key in KEYS:
        (reset,) = of_kind(events(tmp_path, key, 2), OptimizerReset)
        assert "another model was restored as round 4" in reset.reason


def done(run_dir):
    return of_kind(events(run_dir, "server"), RequestDone)


async def test_an_operator_pauses_restores_continues_and_stops(tmp_path):
    gates = {"client-1": Gate(3)}
    config = quick(rounds=50)
    run = RunDir(tmp_path)

    async with federation(tmp_path, config, holds=gates) as (server, _):
        await gates["client-1"].wait_for(3)
        write_request(run, "pause")
        await until(lambda: len(done(tmp_path)) == 1, what="the pause")
        gates["client-1"].open(3)
        await until(lambda: len(committed(tmp_path)) == 3, what="round 3")
        write_request(run, "restore", {"node": "server", "round_num": 1})
        await until(lambda: len(done(tmp_path)) == 2, what="the restore")
        paused_at = [r.round_num for r in committed(tmp_path)]
        write_request(run, "restore", {"node": "server", "round_num": 99})
        await until(lambda: len(done(tmp_path)) == 3, what="the refusal")
        write_request(run, "continue")
        await until(lambda: len(committed(tmp_path)) >= 6, what="two rounds more")
        write_request(run, "stop")
        finish = await server.over

    rounds = committed(tmp_path)
    assert finish.reason == "stopped"
    assert paused_at == [1, 2, 3, 4]
    assert rounds[3].reason == "restored"
    assert rounds[3].members == ()
    assert rounds[3].source == "server round 1"
    assert rounds[3].model_digest == rounds[0].model_digest
    assert rounds[4].members == tuple(f"client-{n}" for n in (1, 2, 3))
    assert [e.error is None for e in done(tmp_path)] == [True, True, False, True, True]
    (reset,) = of_kind(events(tmp_path, "client-2"), OptimizerReset)
    assert reset.reason == "another model was restored as round 4"
    assert reset.round_num == 5


async def test_requests_are_obeyed_after_one_that_met_a_fault(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise ValueError("a fault")

    monkeypatch.setattr("trainer.federated.global_model.GlobalModel.adopt", fail)
    run = RunDir(tmp_path)

    async with federation(tmp_path, quick(rounds=100_000)) as (server, _):
        await until(lambda: len(committed(tmp_path)) >= 2, what="two rounds")
        write_request(run, "restore", {"node": "server", "round_num": 1})
        await until(lambda: len(done(tmp_path)) == 1, what="the failure")
        write_request(run, "stop")
        finish = await server.over

    assert finish.reason == "stopped"
    assert [e.error for e in done(tmp_path)] == ["ValueError: a fault", None]


async def test_a_fault_after_a_commit_ends_the_federation_and_not_its_progress(
    tmp_path, monkeypatch
):
    def fail(*_):
        raise ValueError("a fault")

    monkeypatch.setattr("trainer.federated.server_events.ServerEvents.committed", fail)

    async with federation(tmp_path, quick()) as (server, _):
        finish = await asyncio.wait_for(server.over, 30)

    assert (finish.reason, finish.detail) == ("error", "ValueError: a fault")
    with ChunkStoreReader(RunDir(tmp_path).chunk_store("server")) as reader:
        assert [row.round_num for row in reader.rounds()] == [1]


def chunk_of(path, round_num, kind):
    """Return the digest of a chunk that holds a tensor of this kind."""
    with ChunkStoreReader(path) as reader:
        layout = reader.layout(round_num)
    names = {row.name for row in layout.tensors if row.kind == kind}
    return next(c.digest for c in layout.chunks if c.parts[0].name in names)


async def test_an_operator_has_a_store_mended_while_the_federation_runs(tmp_path):
    gates = {"client-2": Gate(3)}
    run = RunDir(tmp_path)
    path = run.chunk_store("client-1")
    restore = {"node": "client-1", "round_num": 2}

    async def ask(kind, args=None):
        num_before = len(done(tmp_path))
        write_request(run, kind, args)
        await until(lambda: len(done(tmp_path)) > num_before, what=kind)

    async with federation(tmp_path, quick(rounds=50), holds=gates) as (server, _):
        await gates["client-2"].wait_for(3)
        await ask("pause")
        gates["client-2"].open(3)
        await until(lambda: len(committed(tmp_path)) == 3, what="round 3")
        # The server keeps what the members gave, the optimizer's state is theirs.
        shared, own = (chunk_of(path, 2, kind) for kind in (PARAMETER, OPTIMIZER))
        flip_bit(path, shared)
        await ask("restore", restore)
        await ask("repair", {"node": "client-1"})
        await ask("restore", restore)
        lose_chunk(path, own)
        await ask("repair", {"node": "client-1"})
        await ask("repair", {"node": "nobody"})
        await ask("continue")
        await until(lambda: len(committed(tmp_path)) >= 5, what="a round more")
        await ask("stop")
        await server.over

    told = events(tmp_path, "server")
    (repaired,) = of_kind(told, ChunkRepaired)
    errors = [e.error for e in done(tmp_path)]
    assert (repaired.store, repaired.digest, repaired.source) == (
        "client-1",
        shared,
        "server",
    )
    assert [(e.store, e.digest, e.reason) for e in of_kind(told, ChunkDamaged)] == [
        ("client-1", shared, "damaged"),
        ("client-1", shared, "damaged"),
        ("client-1", own, "missing"),
    ]
    assert "also held by `server`" in errors[1]
    assert "no other store of this run has chunk" in errors[4]
    assert "No such file" in errors[5]
    assert [e for e in errors if e is None] == [None] * 5
    assert committed(tmp_path)[3].source == "client-1 round 2"
    assert committed(tmp_path)[4].members == tuple(f"client-{n}" for n in (1, 2, 3))


@pytest.mark.slow
async def test_a_connection_that_says_nothing_is_found_out_by_both_ends(tmp_path):
    gates = {"client-1": Gate(2)}
    config = quick(return_grace_s=30.0)

    async with federation(tmp_path, config, holds=gates) as (server, clients):
        await gates["client-1"].wait_for(2)
        clients["client-1"].proxy.stall()
        await until(
            lambda: of_kind(events(tmp_path, "server"), ClientLost), what="the loss"
        )
        clients["client-1"].proxy.flow()
        gates["client-1"].open(2)
        finish = await server.over

    assert finish.reason == "completed"
    assert [len(r.members) for r in committed(tmp_path)] == [3] * 4


async def test_a_store_that_fails_costs_the_client_nothing_but_the_store(tmp_path):
    gates = {"client-1": Gate(2)}
    config = quick()

    async with federation(tmp_path, config, holds=gates) as (server, clients):
        await gates["client-1"].wait_for(2)
        clients["client-1"].participant._part.workbench.close()
        gates["client-1"].open(2)
        finish = await server.over

    stored = of_kind(events(tmp_path, "client-1"), StoreStats)
    assert finish.reason == "completed"
    assert {e.round_num for e in stored if e.error is None} == {1}
    assert {e.round_num for e in stored if e.error is not None} == {2, 3, 4}
    assert [len(r.members) for r in committed(tmp_path)] == [3] * 4


async def random_cuts(tmp_path, seed, rounds):
    """Cut and mend clients at random while rounds run; return how it ended."""
    chance = random.Random(seed)
    config = quick(
        rounds=rounds,
        round_limit_s=2.0,
        patience_s=60.0,
        max_tries=50,
        min_clients=1,
        return_grace_s=0.02,
    )

    async def torment(client):
        while True:
            await asyncio.sleep(chance.uniform(0, 0.2))
            client.proxy.cut()
            await asyncio.sleep(chance.uniform(0, 0.1))
            client.proxy.mend()

    async with federation(tmp_path, config) as (server, clients):
        torments = [asyncio.create_task(torment(c)) for c in clients.values()]
        finish = await server.over
        for task in torments:
            task.cancel()
        await asyncio.gather(*torments, return_exceptions=True)
        for client in clients.values():
            client.proxy.mend()
    assert finish.reason == "completed"
    assert [r.round_num for r in committed(tmp_path)] == list(range(1, rounds + 1))
    assert_replays(tmp_path, config)
    with ChunkStore.open(RunDir(tmp_path).chunk_store("server")) as store:
        assert [row.members for row in store.rounds()] == [
            r.members for r in committed(tmp_path)
        ]


@pytest.mark.slow
async def test_clients_cut_and_returned_at_random_never_deadlock(tmp_path):
    await random_cuts(tmp_path, seed=1, rounds=15)


@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", range(2, 12))
async def test_clients_cut_and_returned_at_random_never_deadlock_in_full(
    tmp_path, seed
):
    await random_cuts(tmp_path, seed=seed, rounds=60)
