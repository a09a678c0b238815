"""What the server tells cannot be made to fill the disk by whoever knocks."""

from agent.rundir.events import ClientRefused, decode_lines
from agent.rundir.layout import RunDir
from agent.session import Agent
from trainer.federated.server_events import ServerEvents


def test_refused_connections_are_told_once_a_second_and_the_others_counted(
    tmp_path, monkeypatch
):
    now_ns = 5_000_000_000
    monkeypatch.setattr("trainer.federated.server_events.monotonic_ns", lambda: now_ns)
    with Agent.attach(
        tmp_path, kind="federated", rank=-1, attempt=1, node="server"
    ) as agent:
        events = ServerEvents(agent)
        for _ in range(1_000):
            events.turned_away("mallory" * 1_000, "its token is not that of this key")
        now_ns += 1_000_000_000
        events.turned_away("client-1", "its token is not that of this key")

    data = RunDir(tmp_path).telemetry_file(1, "server").read_bytes()
    told = [e for e in decode_lines(data) if isinstance(e, ClientRefused)]
    assert [(e.client[:7], e.num_untold) for e in told] == [
        ("mallory", 0),
        ("client-", 999),
    ]
    assert len(told[0].client) == 100


def test_a_reason_that_quotes_a_client_does_not_fill_the_disk(tmp_path):
    with Agent.attach(
        tmp_path, kind="federated", rank=-1, attempt=1, node="server"
    ) as agent:
        events = ServerEvents(agent)
        events.turned_away("mallory", "x" * 1_000_000)
        events.lost("mallory", "session", "x" * 1_000_000)
        events.refused("mallory", 1, "x" * 1_000_000)

    assert RunDir(tmp_path).telemetry_file(1, "server").stat().st_size < 100_000
