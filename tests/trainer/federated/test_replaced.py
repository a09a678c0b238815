"""Whose run directory is another run's by now ends, and touches nothing there."""

import contextlib

import pytest

from agent.rundir.chunks.reader import ChunkStoreReader
from agent.rundir.errors import LockedError, NotARunError
from agent.rundir.layout import RunDir
from tests.replaced import contents, other_run, replace
from tests.trainer.federated.federation import (
    Gate,
    quick,
    serving,
    taking_part,
    until,
)
from trainer.federated.server import Ended

pytestmark = pytest.mark.timeout(120)


def stored(run_dir, node):
    with ChunkStoreReader(RunDir(run_dir).chunk_store(node)) as reader:
        return [row.round_num for row in reader.rounds()]


async def test_a_server_ends_with_the_rounds_that_it_had_committed(tmp_path):
    run_dir, other = tmp_path / "run", other_run(tmp_path / "other", "federated")
    before, gate = contents(other), Gate(2)

    async with (
        serving(run_dir, quick(clients=1)) as server,
        taking_part(tmp_path / "far", "client-1", server.port, hold=gate),
    ):
        await gate.wait_for(2)
        moved = replace(run_dir, other)
        gate.open(2)
        finish = await server.over

    assert finish.reason == "error"
    assert finish.detail == f"LockedError: another run lies in `{run_dir}` by now"
    assert contents(run_dir) == before
    assert stored(moved, "server") == [1]


async def test_a_server_that_waits_for_clients_ends_too(tmp_path, monkeypatch):
    monkeypatch.setattr("trainer.federated.coordinator._LOOK_EVERY_S", 0.05)
    run_dir, other = tmp_path / "run", other_run(tmp_path / "other", "federated")
    before = contents(other)

    async with serving(run_dir, quick()) as server:
        replace(run_dir, other)
        finish = await server.over

    told = Ended(finish, server.coordinator.failure).as_error(RunDir(run_dir), 0)
    assert f"LockedError: another run lies in `{run_dir}` by now" in str(told)
    assert told.hint is None
    assert contents(run_dir) == before


async def test_a_client_ends_before_it_stores_or_acknowledges_anything(tmp_path):
    far, other = tmp_path / "far", other_run(tmp_path / "other", "federated")
    before, gate = contents(other), Gate(2)

    async with (
        serving(tmp_path / "run", quick(clients=1)) as server,
        taking_part(far, "client-1", server.port, hold=gate) as client,
    ):
        await gate.wait_for(2)
        moved = replace(far, other)
        gate.open(2)
        with pytest.raises(LockedError, match="another run lies in"):
            await client.task

    assert contents(far) == before
    assert stored(moved, "client-1") == [1]


async def test_a_client_tells_no_later_attempt_in_another_runs_directory(tmp_path):
    run_dir, far = tmp_path / "run", tmp_path / "far"
    config, gate = quick(clients=1), Gate(2)
    other = other_run(tmp_path / "other", "federated")
    before = contents(other)

    async with contextlib.AsyncExitStack() as stack:
        server = await stack.enter_async_context(serving(run_dir, config))
        client = await stack.enter_async_context(
            taking_part(far, "client-1", server.port, hold=gate)
        )
        await gate.wait_for(2)
        client.proxy.cut()
        gate.open(2)
        await until(lambda: stored(far, "client-1") == [1, 2], what="round 2")
        await server.end()
        moved = replace(far, other)
        await stack.enter_async_context(serving(run_dir, config, port=server.port))
        client.proxy.mend()
        with pytest.raises(NotARunError, match="belongs to another run"):
            await client.task

    assert contents(far) == before
    assert stored(moved, "client-1") == [1, 2]
