"""Connections that break, and clients and servers that come back."""

import asyncio
import contextlib
import random
import threading

import pytest

from agent.rundir.chunks.records import PARAMETER
from agent.rundir.events import (
    ChunkDamaged,
    ClientJoined,
    ClientLost,
    ClientUpdate,
    EvalDone,
    OptimizerReset,
    StepDone,
)
from agent.rundir.layout import RunDir
from tests.trainer.chunks.store_faults import flip_bit
from tests.trainer.federated.federation import (
    KEYS,
    Gate,
    assert_replays,
    chunk_of,
    committed,
    events,
    federation,
    of_kind,
    quick,
    serving,
    taking_part,
    until,
)
from trainer.chunks.store import ChunkStore
from trainer.federated.intake import examine
from trainer.federated.peer import Peer

pytestmark = pytest.mark.timeout(120)


async def lost(path):
    """Wait until the server told that a client is gone."""
    await until(lambda: of_kind(events(path, "server"), ClientLost), what="the loss")


async def returned(path):
    """Wait until the server told a fourth joining: of three clients, one again."""
    await until(
        lambda: len(of_kind(events(path, "server"), ClientJoined)) == 4,
        what="the return",
    )


async def test_a_client_that_missed_rounds_resets_before_it_counts_as_back(tmp_path):
    gates = {"client-1": Gate(2), "client-2": Gate(4)}
    config = quick(rounds=5, momentum=0.9)

    async with federation(tmp_path, config, holds=gates) as (server, clients):
        await gates["client-1"].wait_for(2)
        clients["client-1"].proxy.cut()
        await gates["client-2"].wait_for(4)
        gates["client-1"].open(2)
        clients["client-1"].proxy.mend()
        await returned(tmp_path)
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
        await lost(tmp_path)
        clients["client-1"].proxy.mend()
        await returned(tmp_path)
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
        await lost(tmp_path)
        clients["client-1"].proxy.mend()
        await returned(tmp_path)
        gates["client-1"].open(2)
        await server.over

    steps = of_kind(events(tmp_path, "client-1"), StepDone)
    assert [e.step for e in steps] == list(range(1, 9))
    assert [len(r.members) for r in committed(tmp_path)] == [3] * 4


@pytest.fixture
def taken(monkeypatch):
    """The chunks that client-1 sent, by session."""
    found, take = {}, Peer._take

    async def note_and_take(self, chunk):
        if self.key == "client-1":
            found.setdefault(self.session, []).append(chunk.digest)
        await take(self, chunk)

    monkeypatch.setattr(Peer, "_take", note_and_take)
    return found


async def test_an_update_that_breaks_off_goes_on_where_it_stopped(tmp_path, taken):
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
    first, second = taken.values()
    assert first
    assert not set(first) & set(second)
    assert updates["client-1"].num_bytes == updates["client-2"].num_bytes
    (evaluated,) = of_kind(events(tmp_path, "server"), EvalDone)
    assert evaluated.buffers == "calibration"
    assert_replays(tmp_path, config)


async def test_it_goes_on_where_it_stopped_if_only_the_client_saw_it_break(
    tmp_path, taken
):
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
    first, second = taken.values()
    assert first
    assert not set(first) & set(second)
    assert updates["client-1"].num_bytes == updates["client-2"].num_bytes


class SlowLook:
    """Holds the server's look at the first update until it is let go."""

    def __init__(self, monkeypatch):
        self.began = threading.Event()
        self.may_end = threading.Event()
        monkeypatch.setattr("trainer.federated.reception.examine", self)

    def __call__(self, client, offer, parcel):
        if client == "client-1" and not self.began.is_set():
            self.began.set()
            assert self.may_end.wait(60)
        return examine(client, offer, parcel)


@pytest.mark.parametrize("is_unseen", [False, True])
async def test_an_update_does_not_travel_again_if_it_was_being_looked_at(
    tmp_path, monkeypatch, is_unseen
):
    look = SlowLook(monkeypatch)
    gates = {"client-1": Gate(1)}
    config = quick(
        data="digits", local_steps=1, alpha=100.0, rounds=1, return_grace_s=30.0
    )

    async with federation(tmp_path, config, holds=gates) as (server, clients):
        proxy = clients["client-1"].proxy
        await gates["client-1"].wait_for(1)
        num_before = proxy.num_bytes
        gates["client-1"].open(1)
        await until(look.began.is_set, what="the look")
        num_sent = proxy.num_bytes - num_before
        proxy.is_unseen = is_unseen
        proxy.cut()
        if not is_unseen:
            await lost(tmp_path)
        proxy.mend()
        await returned(tmp_path)
        look.may_end.set()
        finish = await server.over
        num_sent_again = proxy.num_bytes - num_before - num_sent

    (only,) = committed(tmp_path)
    assert (finish.reason, only.members) == ("completed", KEYS)
    assert num_sent > 40_000
    assert num_sent_again < num_sent / 4
    assert_replays(tmp_path, config)


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


@pytest.mark.slow
async def test_a_connection_that_says_nothing_is_found_out_by_both_ends(tmp_path):
    gates = {"client-1": Gate(2)}
    config = quick(return_grace_s=30.0)

    async with federation(tmp_path, config, holds=gates) as (server, clients):
        await gates["client-1"].wait_for(2)
        clients["client-1"].proxy.stall()
        await lost(tmp_path)
        clients["client-1"].proxy.flow()
        gates["client-1"].open(2)
        finish = await server.over

    assert finish.reason == "completed"
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
