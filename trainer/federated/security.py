"""Who may talk to the server, and over what.

On this machine's loopback a token per client is checked if tokens are given.
Beyond it both TLS and a token per client key are required, on both sides:
without them nothing listens and nothing connects.
"""

import hashlib
import hmac
import ipaddress
import os
import shlex
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import msgspec

from agent.rundir.errors import RunDirError
from trainer.settings import UsageError

TOKEN_VARIABLE = "OPSDASH_TOKEN"  # noqa: S105 - the variable's name, not a token
_SHORTEST_TOKEN = 16
_MAX_FILE_BYTES = 1 << 20
"""Of tokens or PEM; the tokens of 15,000 clients fit."""


class Endpoint(NamedTuple):
    """A host and a port."""

    host: str
    port: int
    """0: any free one, for listening."""

    def __str__(self) -> str:
        """Write it as gRPC takes it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether it can be reached from this machine only."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


@dataclass(frozen=True)
class ServerSecurity:
    """What the server shows and what it asks for."""

    digests: dict[str, bytes] | None = None
    """SHA-256 of each client's token, by key; None: no token is asked for."""
    certificate: bytes | None = None
    """PEM chain; None: no TLS."""
    private_key: bytes | None = None

    def admits(self, key: str, token: str | None) -> bool:
        """Whether a client with this key may come in."""
        if self.digests is None:
            return True
        expected = self.digests.get(key, b"")
        found = hashlib.sha256((token or "").encode()).digest()
        return hmac.compare_digest(expected, found)


@dataclass(frozen=True)
class ClientSecurity:
    """What a client shows and whom it trusts."""

    token: str | None = None
    authority: bytes | None = None
    """PEM of the authority that signed the server's certificate; None: no TLS."""


def parse_endpoint(text: str) -> Endpoint:
    """Read `host:port`, or `[address]:port`.

    Raises:
        UsageError: it is something else.
    """
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not port.isdecimal() or int(port) > 65535:
        raise UsageError(f"`{text}` is not `host:port`", hint="--server 127.0.0.1:7070")
    return Endpoint(host, int(port))


def server_security(
    endpoint: Endpoint,
    *,
    tokens: Path | None,
    certificate: Path | None,
    private_key: Path | None,
) -> ServerSecurity:
    """Read the server's files, and make sure that they are enough.

    Raises:
        UsageError: it would listen beyond this machine without TLS or tokens.
        RunDirError: a file cannot be used.
    """
    if (certificate is None) != (private_key is None):
        raise UsageError("`--tls-cert` and `--tls-key` belong together")
    if not endpoint.is_loopback and (tokens is None or certificate is None):
        raise UsageError(
            f"listening at `{endpoint}`, beyond this machine, needs TLS and a token "
            "for each client",
            hint="--tls-cert CERT.pem --tls-key KEY.pem --tokens TOKENS.json",
        )
    return ServerSecurity(
        digests=None if tokens is None else read_tokens(tokens),
        certificate=None if certificate is None else _read(certificate),
        private_key=None if private_key is None else _read(private_key, secret=True),
    )


def client_security(
    endpoint: Endpoint, *, token: str | None, authority: Path | None
) -> ClientSecurity:
    """Read the client's files, and make sure that they are enough.

    Raises:
        UsageError: a token or a model would travel unprotected.
        RunDirError: a file cannot be used.
    """
    if not endpoint.is_loopback and (not token or authority is None):
        raise UsageError(
            f"connecting to `{endpoint}`, beyond this machine, needs TLS and a token",
            hint=f"{TOKEN_VARIABLE}=… --tls-ca CA.pem",
        )
    return ClientSecurity(token, None if authority is None else _read(authority))


def read_tokens(path: Path) -> dict[str, bytes]:
    """Return the digests of the tokens in a JSON file `{"client-1": "…"}`.

    Raises:
        RunDirError: others can read the file, or it holds something else.
    """
    try:
        found = msgspec.json.decode(_read(path, secret=True), type=dict[str, str])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RunDirError(f"`{path}` holds no tokens: {error}") from error
    for key, token in found.items():
        if len(token) < _SHORTEST_TOKEN:
            raise RunDirError(
                f"the token of `{key}` in `{path}` has fewer than {_SHORTEST_TOKEN} "
                "characters",
                hint="python -c 'import secrets; print(secrets.token_urlsafe())'",
            )
    return {
        key: hashlib.sha256(token.encode()).digest() for key, token in found.items()
    }


def _read(path: Path, *, secret: bool = False) -> bytes:
    try:
        with path.open("rb") as file:
            if secret:
                _refuse_if_open_to_others(path, os.fstat(file.fileno()))
            found = file.read(_MAX_FILE_BYTES + 1)
    except OSError as error:
        raise RunDirError(f"`{path}` cannot be read: {error.strerror}") from error
    if len(found) > _MAX_FILE_BYTES:
        raise RunDirError(
            f"`{path}` has more than {_MAX_FILE_BYTES:,} bytes: too many for tokens, "
            "a certificate or a key",
            hint=f"ls -l {shlex.quote(str(path))}",
        )
    return found


def _refuse_if_open_to_others(path: Path, found: os.stat_result) -> None:
    if found.st_mode & (stat.S_IRWXG | stat.S_IRWXO) or found.st_uid != os.geteuid():
        raise RunDirError(
            f"`{path}` holds secrets and belongs to or is open to others",
            hint=f"chmod 600 {path}",
        )
