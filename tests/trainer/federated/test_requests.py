"""What operators ask of a running federation, over its run directory."""

import pytest

from agent.rundir.chunks.records import OPTIMIZER, PARAMETER
from agent.rundir.events import ChunkDamaged, ChunkRepaired, OptimizerReset, RequestDone
from agent.rundir.layout import RunDir
from agent.rundir.requests import read_outcome, write_request
from tests.trainer.chunks.store_faults import flip_bit, lose_chunk
from tests.trainer.federated.federation import (
    Gate,
    chunk_of,
    committed,
    events,
    federation,
    of_kind,
    quick,
    until,
)

pytestmark = pytest.mark.timeout(120)


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


@pytest.mark.parametrize(
    ("kind", "args", "told"),
    [
        ("restore", {"node": "server", "round_num": 99_999}, "hold round 99999"),
        ("restore", {"node": "nobody", "round_num": 1}, "No such file"),
        ("resume", {"checkpoint": "round-00099999"}, "hold round 99999"),
        ("resume", {"checkpoint": "step-00000001"}, "is not a federated round"),
    ],
)
async def test_what_can_never_be_is_refused_while_a_round_is_open(
    tmp_path, kind, args, told
):
    gates = {"client-1": Gate(2)}
    run = RunDir(tmp_path)

    async with federation(tmp_path, quick(rounds=2), holds=gates) as (server, _):
        await gates["client-1"].wait_for(2)
        asked = write_request(run, kind, args)
        await until(lambda: read_outcome(run, asked) is not None, what="the outcome")
        was_open = not server.coordinator.is_between_rounds
        gates["client-1"].open(2)
        finish = await server.over

    outcome = read_outcome(run, asked)
    assert was_open
    assert outcome.stage == "failed"
    assert told in outcome.error
    assert finish.reason == "completed"


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
