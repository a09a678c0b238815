"""Who is let in, who is turned away, and what either is told."""

import subprocess

import pytest

from agent.rundir.attempts import read_identity
from agent.rundir.errors import NotARunError
from agent.rundir.events import ClientJoined, ClientLost, ClientRefused
from agent.rundir.layout import RunDir
from agent.start import begin_run
from tests.trainer.federated.federation import (
    Gate,
    events,
    federation,
    of_kind,
    quick,
    serving,
    taking_part,
)
from trainer.federated.messages import PROTOCOL, Hello, encode
from trainer.federated.security import (
    ClientSecurity,
    Endpoint,
    ServerSecurity,
    read_tokens,
)
from trainer.federated.transport import DisconnectedError, TurnedAwayError, connect

pytestmark = pytest.mark.timeout(120)


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
