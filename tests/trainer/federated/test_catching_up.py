"""Rounds that were stored by an attempt that did not live to tell them."""

import pytest

from agent.rundir.events import ChunkDamaged, ClientUpdate, RoundCommitted
from agent.rundir.layout import RunDir
from agent.session import Agent
from agent.start import begin_run
from tests.trainer.chunks.store_faults import flip_bit
from tests.trainer.federated.federation import (
    KEYS,
    chunk_of,
    committed,
    events,
    federation,
    of_kind,
    quick,
    serving,
    until,
)
from trainer.federated.catching_up import newest_told
from trainer.federated.server_events import ServerEvents

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
async def untold(tmp_path, monkeypatch):
    """A run whose first attempt ended between round 3 and the telling of it."""
    tell, kept = ServerEvents.committed, []

    def tell_two(self, close, done):
        if done.round_num == 3:
            kept.append(done)
            raise ValueError("a fault")
        tell(self, close, done)

    with monkeypatch.context() as patch:
        patch.setattr(ServerEvents, "committed", tell_two)
        async with federation(tmp_path, quick()) as (server, _):
            await server.over
    (done,) = kept
    assert [r.round_num for r in committed(tmp_path)] == [1, 2]
    return done


async def begin_and_end(run_dir):
    async with serving(run_dir, quick()):
        pass


async def test_it_is_told_by_the_next_attempt_and_by_no_other(tmp_path, untold):
    await begin_and_end(tmp_path)
    await begin_and_end(tmp_path)

    (told,) = committed(tmp_path, 2)
    assert told.round_num == 3
    assert told.members == KEYS
    assert told.num_selected == 3
    assert told.reason == "complete"
    assert told.model_digest == untold.packed.digest
    assert told.loss == untold.measured.loss
    assert 0 < told.round_ns < 60_000_000_000
    assert committed(tmp_path, 3) == []


async def test_its_updates_are_told_with_it(tmp_path, untold):
    before = of_kind(events(tmp_path, "server", 1), ClientUpdate)

    await begin_and_end(tmp_path)

    told = of_kind(events(tmp_path, "server", 2), ClientUpdate)
    assert [(u.round_num, u.client) for u in told] == [(3, key) for key in KEYS]
    assert [u.num_bytes for u in told] == [u.num_bytes for u in before[:3]]
    assert all(u.loss is not None and u.loss > 0 for u in told)
    assert all(u.update_norm > 0 and u.rounds_missed == 0 for u in told)
    assert all(u.compute_ns > 0 for u in told)


async def test_an_update_that_was_told_before_the_end_is_not_told_again(
    tmp_path, untold
):
    tell_updates(tmp_path, 1, 3, KEYS[:2])

    await begin_and_end(tmp_path)

    told = of_kind(events(tmp_path, "server", 2), ClientUpdate)
    assert [u.client for u in told] == [KEYS[2]]


async def test_the_federation_goes_on_after_it(tmp_path, untold):
    async with federation(tmp_path, quick()) as (server, _):
        finish = await server.over

    assert finish.reason == "completed"
    assert [r.round_num for r in committed(tmp_path, 2)] == [3, 4]


async def test_it_is_told_though_it_is_damaged_by_now(tmp_path, untold):
    flip_bit(
        RunDir(tmp_path).chunk_store("server"),
        chunk_of(RunDir(tmp_path).chunk_store("server"), 3, "parameter"),
    )

    await begin_and_end(tmp_path)

    told = committed(tmp_path, 2)
    assert [(r.round_num, r.reason) for r in told] == [(3, "complete"), (4, "restored")]
    assert told[0].model_digest == untold.packed.digest
    assert len(of_kind(events(tmp_path, "server", 2), ChunkDamaged)) == 1


async def test_a_round_that_an_operator_restored_is_told_late_too(
    tmp_path, monkeypatch
):
    def fail(*_):
        raise ValueError("a fault")

    async with federation(tmp_path, quick(rounds=100_000)) as (server, _):
        await until(lambda: len(committed(tmp_path)) >= 2, what="two rounds")
        server.coordinator.pause()
        await until(lambda: server.coordinator.is_between_rounds, what="the pause")
        with monkeypatch.context() as patch:
            patch.setattr(ServerEvents, "adopted", fail)
            path = RunDir(tmp_path).chunk_store("server")
            with pytest.raises(ValueError, match="a fault"):
                await server.coordinator.adopt(
                    lambda number: server.model.adopt(number, path, 1), "round 1"
                )

    await begin_and_end(tmp_path)

    (told,) = committed(tmp_path, 2)
    assert (told.reason, told.source, told.members) == (
        "restored",
        "server round 1",
        (),
    )


def tell(run_dir, attempt, *rounds, num_others=0):
    with Agent.attach(
        run_dir, kind="federated", rank=-1, attempt=attempt, node="server"
    ) as agent:
        for round_num in rounds:
            agent.emit(
                RoundCommitted,
                round_num=round_num,
                members=(),
                num_selected=0,
                round_ns=0,
                model_digest="",
            )
        told = ServerEvents(agent)
        for number in range(num_others):
            told.lost("client-1", f"session-{number}", "x" * 1_000)


def tell_updates(run_dir, attempt, round_num, clients):
    with Agent.attach(
        run_dir, kind="federated", rank=-1, attempt=attempt, node="server"
    ) as agent:
        for client in clients:
            agent.emit(ClientUpdate, round_num=round_num, client=client, num_examples=1)


@pytest.mark.parametrize("num_others", [0, 400, 4_000])
def test_what_was_told_is_found_however_much_was_told_after_it(tmp_path, num_others):
    for _ in range(3):
        start = begin_run(tmp_path, kind="federated")
        start.record()
        start.release()
    tell(tmp_path, 1, 1, 2, 3, num_others=num_others)
    tell(tmp_path, 2)

    run = RunDir(tmp_path)

    assert newest_told(run, 3) == 3
    assert newest_told(run, 1) is None
