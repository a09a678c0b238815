"""A client that was let in and means harm costs a server next to nothing."""

import asyncio
import contextlib

import pytest

from agent.rundir.events import (
    ClientJoined,
    ClientLost,
    ClientRefused,
    UpdateRefused,
)
from tests.trainer.federated.federation import (
    committed,
    events,
    of_kind,
    quick,
    serving,
    taking_part,
    until,
)
from tests.trainer.federated.hostile import hostile, offer
from trainer.federated.attendance import _STREAMS
from trainer.federated.flood import Allowance, Rate
from trainer.federated.messages import Ready, Verdict
from trainer.federated.terms import SECOND_NS
from trainer.federated.transport import DisconnectedError, TurnedAwayError

pytestmark = pytest.mark.timeout(120)


def alone(**changes):
    """Return settings under which one client is enough, whoever it is."""
    return quick(clients=1, min_clients=1, min_updates=1, **changes)


async def test_a_description_of_two_megabytes_ends_its_session_and_names_it(tmp_path):
    config = quick(clients=2, min_clients=2, min_updates=1, rounds=1)

    async with (
        serving(tmp_path, config) as server,
        taking_part(tmp_path, "client-1", server.port) as client,
        hostile(server) as mallory,
    ):
        model, task = await mallory.be_asked()
        await mallory.say(offer(model, task, layout="[" * (2 << 20)))
        with pytest.raises(TurnedAwayError, match="client `mallory` describes its"):
            await mallory.hear(Verdict)
        over = await client.task

    (lost,) = (
        e for e in of_kind(events(tmp_path, "server"), ClientLost) if "mall" in e.client
    )
    assert lost.reason.startswith("client `mallory` describes its model in 2,097,152 ")
    assert over.reason == "completed"


async def test_a_flood_of_refused_updates_is_told_sparingly_and_counted(tmp_path):
    num_offers = 2_000
    async with serving(tmp_path, alone()) as server, hostile(server) as mallory:
        model, task = await mallory.be_asked()
        for _ in range(num_offers):
            await mallory.say(offer(model, task, base_digest="another"))
            verdict = await mallory.hear(Verdict)
            assert verdict.refusal == "foreign_model"

    told = of_kind(events(tmp_path, "server"), UpdateRefused)
    assert {(e.client, e.reason, e.round_num) for e in told} == {
        ("mallory", "foreign_model", 1)
    }
    assert sum(1 + e.num_untold for e in told) == num_offers
    assert len(told) < 200


@pytest.mark.parametrize("round_num", [-5, 0, 7, 2**60])
async def test_a_refused_update_makes_no_round_that_never_was(tmp_path, round_num):
    async with serving(tmp_path, alone()) as server, hostile(server) as mallory:
        model, task = await mallory.be_asked()
        await mallory.say(offer(model, task, round_num=round_num))
        await mallory.hear(Verdict)

    (told,) = of_kind(events(tmp_path, "server"), UpdateRefused)
    assert told.round_num == 1
    assert told.reason == ("late" if round_num < 1 else "early")


async def test_a_refused_update_is_never_told_as_one_to_an_earlier_attempt(tmp_path):
    async with serving(tmp_path, alone(rounds=3)) as server:
        async with taking_part(tmp_path, "client-1", server.port):
            await until(lambda: len(committed(tmp_path)) == 3, what="three rounds")
        await server.over

    async with (
        serving(tmp_path, alone(rounds=5)) as server,
        hostile(server) as mallory,
    ):
        model, task = await mallory.be_asked()
        await mallory.say(offer(model, task, round_num=1))
        await mallory.hear(Verdict)

    (told,) = of_kind(events(tmp_path, "server", attempt=2), UpdateRefused)
    assert (told.round_num, told.reason) == (4, "late")


async def test_a_client_that_is_ready_again_and_again_joins_once(tmp_path):
    async with serving(tmp_path, alone()) as server, hostile(server) as mallory:
        await mallory.greet()
        await mallory.say(Ready())
        # Whether it hears why depends on whether all was sent by then.
        with contextlib.suppress(TurnedAwayError, DisconnectedError):
            await mallory.say(Ready())
            await mallory.hear(Verdict)
        await until(lambda: not server.coordinator._rounds.connected, what="its end")

    told = events(tmp_path, "server")
    (lost,) = of_kind(told, ClientLost)
    assert len(of_kind(told, ClientJoined)) == 1
    assert lost.reason == "`mallory` was ready twice"


async def test_a_client_that_comes_and_goes_all_the_time_is_put_off(
    tmp_path, monkeypatch
):
    rate = Rate(at_once=20, every_ns=SECOND_NS)
    monkeypatch.setattr("trainer.federated.attendance._STREAMS", rate)
    num_streams, num_put_off = 200, 0
    async with serving(tmp_path, alone()) as server:
        for number in range(num_streams):
            async with hostile(server) as mallory:
                try:
                    await mallory.greet(f"session-{number}")
                    await mallory.say(Ready())
                except (DisconnectedError, AssertionError):
                    num_put_off += 1

    told = events(tmp_path, "server")
    (*_, last) = refused = of_kind(told, ClientRefused)
    assert (last.client, last.reason) == ("mallory", "it comes too often")
    assert sum(1 + e.num_untold for e in refused) == num_put_off > 0
    assert len(of_kind(told, ClientLost)) < num_streams / 2


def test_a_client_whose_network_breaks_all_the_time_is_not_taken_for_hostile():
    allowance, a_quarter_ns = Allowance(_STREAMS), SECOND_NS // 4

    assert all(allowance.take(n * a_quarter_ns) for n in range(4 * 90))


async def test_a_stream_that_says_nothing_does_not_stay(tmp_path, monkeypatch):
    monkeypatch.setattr("trainer.federated.peer._HELLO_LIMIT_S", 0.2)
    async with serving(tmp_path, alone()) as server, hostile(server) as silent:
        async with asyncio.timeout(30):
            assert await silent.hear(Verdict) is None

    told = events(tmp_path, "server")
    assert of_kind(told, ClientLost) == of_kind(told, ClientRefused) == []
