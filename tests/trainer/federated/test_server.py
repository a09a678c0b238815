"""What whoever started a server is told when its federation could not go on."""

import pytest

from agent.rundir.chunks.errors import full_error
from agent.rundir.layout import RunDir
from tests.trainer.federated.federation import federation, quick
from trainer.federated.server import Ended
from trainer.federated.terms import Finish

pytestmark = pytest.mark.timeout(120)


async def test_a_round_without_room_ends_with_the_command_that_makes_some(
    tmp_path, monkeypatch
):
    error = full_error(RunDir(tmp_path).chunk_store("server"))

    def fail(*_):
        raise error

    monkeypatch.setattr("trainer.federated.global_model.GlobalModel.advance", fail)

    async with federation(tmp_path, quick()) as (server, _):
        finish = await server.over
    told = Ended(finish, server.coordinator.failure).as_error(RunDir(tmp_path), 0)

    assert "ended after round 0: StoreFullError: " in str(told)
    assert told.hint == error.hint
    assert "trainer prune" in told.hint


def test_a_federation_that_nobody_came_to_leads_to_its_events(tmp_path):
    finish = Finish("error", "0 of at least 1 clients for 600 s")

    told = Ended(finish, None).as_error(RunDir(tmp_path), 0)

    assert str(told).endswith("0 of at least 1 clients for 600 s")
    assert told.hint == f"opsdash events {tmp_path}"
