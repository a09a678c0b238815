"""Beyond this machine nothing listens or connects without TLS and tokens."""

import json

import pytest

from agent.rundir.errors import EXIT_USAGE, RunDirError
from trainer.federated.security import (
    Endpoint,
    ServerSecurity,
    client_security,
    parse_endpoint,
    read_tokens,
    server_security,
)
from trainer.settings import UsageError

TOKEN = "a-token-that-is-long-enough"


@pytest.fixture
def files(tmp_path):
    made = {}
    for name, text in {
        "tokens": f'{{"client-1": "{TOKEN}"}}',
        "certificate": "cert",
        "private_key": "key",
    }.items():
        made[name] = tmp_path / name
        made[name].write_text(text)
        made[name].chmod(0o600)
    return made


@pytest.mark.parametrize(
    ("host", "is_loopback"),
    [
        ("127.0.0.1", True),
        ("127.8.9.1", True),
        ("localhost", True),
        ("::1", True),
        ("0.0.0.0", False),
        ("::", False),
        ("10.1.2.3", False),
        ("gpu-01.example.org", False),
    ],
)
def test_only_this_machines_own_addresses_are_loopback(host, is_loopback):
    assert Endpoint(host, 1).is_loopback is is_loopback


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [
        ("127.0.0.1:7070", Endpoint("127.0.0.1", 7070)),
        ("[::1]:80", Endpoint("::1", 80)),
        ("host.example:65535", Endpoint("host.example", 65535)),
    ],
)
def test_an_endpoint_is_read_and_written_back(text, endpoint):
    assert parse_endpoint(text) == endpoint
    assert str(endpoint) == text


@pytest.mark.parametrize("text", ["", "host", ":1", "host:", "host:x", "host:65536"])
def test_what_is_no_endpoint_is_refused(text):
    with pytest.raises(UsageError, match="is not `host:port`"):
        parse_endpoint(text)


@pytest.mark.parametrize("missing", ["tokens", "certificate", None])
def test_listening_beyond_loopback_needs_tls_and_tokens(files, missing):
    given = dict(files)
    if missing == "tokens":
        given["tokens"] = None
    elif missing == "certificate":
        given["certificate"] = given["private_key"] = None
    else:
        given = dict.fromkeys(given)

    with pytest.raises(UsageError, match="needs TLS and a token") as caught:
        server_security(Endpoint("0.0.0.0", 7070), **given)

    assert caught.value.exit_code == EXIT_USAGE
    assert "--tls-cert" in caught.value.hint


def test_listening_beyond_loopback_with_both_is_allowed(files):
    security = server_security(Endpoint("0.0.0.0", 7070), **files)

    assert security.certificate == b"cert"
    assert security.private_key == b"key"


def test_on_loopback_nothing_is_needed():
    security = server_security(
        Endpoint("127.0.0.1", 0), tokens=None, certificate=None, private_key=None
    )

    assert security.admits("anybody", None)


@pytest.mark.parametrize("token", [None, "", TOKEN])
def test_connecting_beyond_loopback_needs_tls_and_a_token(files, token):
    authority = None if token == TOKEN else files["certificate"]

    with pytest.raises(UsageError, match="needs TLS and a token"):
        client_security(Endpoint("10.0.0.1", 1), token=token, authority=authority)


def test_a_token_opens_for_its_own_key_only(files):
    security = ServerSecurity(read_tokens(files["tokens"]))

    assert security.admits("client-1", TOKEN)
    assert not security.admits("client-1", TOKEN + "x")
    assert not security.admits("client-1", None)
    assert not security.admits("client-2", TOKEN)
    assert not security.admits("client-2", "")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_tokens_that_others_can_read_are_refused(files, mode):
    files["tokens"].chmod(mode)

    with pytest.raises(RunDirError, match="is open to others") as caught:
        read_tokens(files["tokens"])

    assert caught.value.hint == f"chmod 600 {files['tokens']}"


@pytest.mark.parametrize(
    "data", [b"", b"[]", b'{"a": 1}', b'{"a": "short"}', b'{"a": "M\xfcller"}']
)
def test_a_file_without_proper_tokens_is_refused(files, data):
    files["tokens"].write_bytes(data)

    with pytest.raises(RunDirError, match=r"holds no tokens|has fewer than 16"):
        read_tokens(files["tokens"])


@pytest.mark.parametrize("name", ["tokens", "certificate", "private_key"])
def test_a_file_that_is_too_long_is_refused_and_not_cut(files, name):
    tokens = ", ".join(f'"client-{number}": "{TOKEN}"' for number in range(30_000))
    files[name].write_text(f"{{{tokens}}}")

    with pytest.raises(RunDirError, match="has more than 1,048,576 bytes") as caught:
        server_security(Endpoint("127.0.0.1", 0), **files)

    assert caught.value.hint == f"ls -l {files[name]}"


def test_the_tokens_of_many_clients_fit(files):
    tokens = {f"client-{number}": "x" * 43 for number in range(15_000)}
    files["tokens"].write_text(json.dumps(tokens))

    assert len(read_tokens(files["tokens"])) == len(tokens)


def test_a_private_key_that_others_can_read_is_refused(files):
    files["private_key"].chmod(0o644)

    with pytest.raises(RunDirError, match="is open to others"):
        server_security(Endpoint("127.0.0.1", 0), **files)
