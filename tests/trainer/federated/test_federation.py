"""Server and clients over real sockets, with the network and time in our hand."""

import asyncio
from dataclasses import replace

import pytest

from agent.rundir.chunks.reader import ChunkStoreReader
from agent.rundir.chunks.records import PARAMETER
from agent.rundir.events import (
    ChunkDamaged,
    ChunkRepaired,
    ClientLost,
    ClientUpdate,
    OptimizerReset,
    RoundAbandoned,
    RoundCommitted,
    RoundStarted,
    RunEnded,
    StepDone,
    StoreStats,
    UpdateRefused,
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
from trainer.federated.transport import TurnedAwayError

pytestmark = pytest.mark.timeout(120)


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


def limit_rounds(server, limit_s):
    """Have rounds that are opened from now on end after so long."""
    rounds = server.coordinator._rounds
    rounds.rules = replace(rounds.rules, limit_ns=int(limit_s * 1e9))


async def test_a_round_ends_at_its_deadline_with_a_client_that_is_silent(tmp_path):
    gates = {"client-1": Gate(1), "client-3": Gate(2)}
    config = quick()

    async with federation(tmp_path, config, holds=gates) as (server, _):
        await gates["client-1"].wait_for(1)
        # Of round 2 alone: on a busy machine the others may take as long.
        limit_rounds(server, 2.0)
        gates["client-1"].open(1)
        await gates["client-3"].wait_for(2)
        limit_rounds(server, config.round_limit_s)
        await until(lambda: len(committed(tmp_path)) >= 2, what="round 2")
        gates["client-3"].open(2)
        finish = await server.over

    rounds = committed(tmp_path)
    assert finish.reason == "completed"
    assert rounds[1].reason == "deadline"
    assert rounds[1].members == ("client-1", "client-2")
    assert rounds[1].round_ns >= 2_000_000_000
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

    monkeypatch.setattr("trainer.federated.reception.examine", fail)
    config = quick(clients=1)

    async with (
        serving(tmp_path, config) as server,
        taking_part(tmp_path, "client-1", server.port) as client,
    ):
        with pytest.raises(TurnedAwayError, match="ValueError: a fault"):
            await client.task

    (lost,) = of_kind(events(tmp_path, "server"), ClientLost)
    assert lost.reason == "ValueError: a fault"


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


async def test_a_copy_that_rotted_is_put_right_by_the_next_round_and_told(tmp_path):
    gates = {"client-1": Gate(2)}
    # Nothing is learnt, so that every round is made of the first one's chunks.
    config = quick(rounds=2, lr=1e-30, momentum=0.0)
    damaged = {}

    async with federation(tmp_path, config, holds=gates) as (server, _):
        await gates["client-1"].wait_for(2)
        for node in ("server", "client-1"):
            path = RunDir(tmp_path).chunk_store(node)
            damaged[node] = chunk_of(path, 1, PARAMETER)
            flip_bit(path, damaged[node])
        gates["client-1"].open(2)
        finish = await server.over

    assert finish.reason == "completed"
    for node, digest in damaged.items():
        told = events(tmp_path, node)
        (found,), (mended,) = of_kind(told, ChunkDamaged), of_kind(told, ChunkRepaired)
        assert (found.store, found.digest, found.round_num) == (node, digest, 2)
        assert (mended.store, mended.digest, mended.source) == (node, digest, "round 2")
        with ChunkStoreReader(RunDir(tmp_path).chunk_store(node)) as reader:
            assert reader.verify().is_sound
    assert_replays(tmp_path, config)
