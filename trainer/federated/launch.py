"""`python -m trainer launch fl`: one server and its clients as processes here.

The server takes any free port of the loopback; each client gets a token of its
own. All hang on one pipe: however this launcher ends, so do they.
"""

import argparse
import asyncio
import contextlib
import functools
import os
import secrets
import shlex
import signal
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from agent.rundir.errors import EXIT_INTERNAL, RunDirError
from trainer.catalogue import as_flags
from trainer.console import say
from trainer.federated.config import FederatedConfig, client_keys
from trainer.federated.lifeline import STOP_SIGNALS
from trainer.federated.security import TOKEN_VARIABLE
from trainer.federated.settings import read_config
from trainer.federated.terms import SERVER
from trainer.settings import UsageParser, add_settings

_LEAVE_S = 10.0
"""How long clients may take to end once the server has."""
_Process = asyncio.subprocess.Process


def main(arguments: list[str]) -> int:
    """Run the command; return the server's exit code.

    Raises:
        RunDirError: the arguments are not what this takes.
    """
    known = _parser().parse(arguments)
    config = read_config(vars(known), os.environ, known.config)
    with _tokens(config) as (tokens_fd, tokens):
        return asyncio.run(_Launch(known, config, tokens_fd, tokens).run())


def _parser() -> UsageParser:
    parser = UsageParser(prog="python -m trainer launch fl", description=__doc__)
    parser.add_argument("run_dir", type=Path, metavar="RUN_DIR")
    parser.add_argument(
        "--new-attempt",
        action="store_true",
        help="continue the run although its configuration differs",
    )
    parser.add_argument(
        "--max-restarts",
        type=int,
        default=0,
        help="of each process that was killed (default: %(default)s)",
    )
    add_settings(parser, FederatedConfig)
    return parser


@contextlib.contextmanager
def _tokens(config: FederatedConfig) -> Iterator[tuple[int, dict[str, str]]]:
    """Make a token per client, in a file without a name.

    It goes with whoever has it open: no way of ending leaves it behind.
    """
    tokens = {key: secrets.token_urlsafe() for key in client_keys(config)}
    with tempfile.TemporaryFile() as file:
        file.write(msgspec.json.encode(tokens))
        file.flush()
        yield file.fileno(), tokens


class ServerKilledError(RunDirError):
    """The server did not end by itself."""

    exit_code = EXIT_INTERNAL


@dataclass
class _Launch:
    """The processes of one start."""

    known: argparse.Namespace
    config: FederatedConfig
    tokens_fd: int
    tokens: dict[str, str]
    _lifeline_fd: int = -1
    _signal: int | None = None
    _is_leaving: bool = False
    """Whether nothing is to be started again."""
    _alive: dict[str, _Process] = field(default_factory=dict)
    """By node: `server`, or the client's key."""

    @property
    def _run_dir(self) -> str:
        return str(self.known.run_dir.absolute())

    async def run(self) -> int:
        """Run the server and its clients to their end; return the exit code.

        Raises:
            ServerKilledError: the server was killed.
        """
        self._lifeline_fd, hold_fd = os.pipe()
        loop = asyncio.get_running_loop()
        for number in STOP_SIGNALS:
            loop.add_signal_handler(number, self._stop, number)
        try:
            code = await self._run_all()
        finally:
            os.close(hold_fd)
            os.close(self._lifeline_fd)
        if self._signal is not None:
            return 128 + self._signal
        if code < 0:
            raise ServerKilledError(
                f"the server was ended by {signal.Signals(-code).name}",
                hint=shlex.join(self._own_command()),
            )
        return code

    async def _run_all(self) -> int:
        server, address = await self._start_until_it_listens()
        if not address:
            return await self._ended(SERVER, server)
        again = functools.partial(self._start_server, address)
        serving = asyncio.create_task(self._keep(SERVER, server, again))
        taking_part = asyncio.gather(
            *(self._keep_client(key, address) for key in self.tokens)
        )
        ends: set[asyncio.Future[Any]] = {serving, taking_part}
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        if not serving.done() and not self._is_leaving:
            await self._give_up_alone(serving)
        code = await serving
        await self._see_off(taking_part)
        return code

    async def _give_up_alone(self, serving: asyncio.Task[int]) -> None:
        """End a server that all clients have left, unless it is about to end."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(serving), _LEAVE_S)
            return
        say("no client is left")
        self._send(SERVER, signal.SIGTERM)

    async def _see_off(self, taking_part: asyncio.Future[list[int]]) -> None:
        """Wait for the clients; end those that stay, first gently."""
        self._is_leaving = True
        for number in (None, signal.SIGTERM, signal.SIGKILL):
            if number is not None:
                for node in self.tokens:
                    self._send(node, number)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(taking_part), _LEAVE_S)
                return

    async def _keep(
        self,
        node: str,
        process: _Process,
        start_again: Callable[[], Awaitable[_Process]],
    ) -> int:
        """Return how a process ended; one that was killed is started again."""
        for _ in range(self.known.max_restarts):
            code = await self._ended(node, process)
            if code >= 0 or self._is_leaving:
                return code
            process = await start_again()
        return await self._ended(node, process)

    async def _keep_client(self, key: str, address: str) -> int:
        start = functools.partial(self._start_client, key, address)
        return await self._keep(key, await start(), start)

    async def _ended(self, node: str, process: _Process) -> int:
        code = await process.wait()
        if self._alive.get(node) is not process:
            return code  # known before
        del self._alive[node]
        if code < 0 and not self._is_leaving:
            say(f"{node} was ended by {signal.Signals(-code).name}")
        return code

    async def _start_until_it_listens(self) -> tuple[_Process, str]:
        """Return the server and where it listens; empty: it has ended for good.

        One that is killed before it listens is started again like any other.
        """
        for _ in range(self.known.max_restarts):
            server, address = await self._start_first_server()
            if address:
                return server, address
            code = await self._ended(SERVER, server)
            if code >= 0 or self._is_leaving:
                return server, ""
        return await self._start_first_server()

    async def _start_first_server(self) -> tuple[_Process, str]:
        """Return the server and where it listens; empty: it has ended."""
        read_fd, write_fd = os.pipe()
        try:
            server = await self._start_server("127.0.0.1:0", announce_fd=write_fd)
        finally:
            os.close(write_fd)
        with os.fdopen(read_fd) as pipe:
            line = await asyncio.to_thread(pipe.readline)
        return server, line.strip()

    async def _start_server(
        self, address: str, announce_fd: int | None = None
    ) -> _Process:
        command = ["fl-server", self._run_dir, "--listen", address]
        command += ["--tokens", f"/dev/fd/{self.tokens_fd}"]
        # Not everywhere does opening it by that name begin at its beginning.
        os.lseek(self.tokens_fd, 0, os.SEEK_SET)
        resume = msgspec.json.encode(self._own_command()).decode()
        command += ["--resume-command", resume]
        if self.known.new_attempt:
            command.append("--new-attempt")
        passed: tuple[int, ...] = (self.tokens_fd,)
        if announce_fd is not None:
            command += ["--announce-fd", str(announce_fd)]
            passed += (announce_fd,)
        return await self._start(SERVER, [*command, *as_flags(self.config)], passed, {})

    async def _start_client(self, key: str, address: str) -> _Process:
        command = ["fl-client", self._run_dir, "--key", key, "--server", address]
        return await self._start(key, command, (), {TOKEN_VARIABLE: self.tokens[key]})

    async def _start(
        self,
        node: str,
        command: list[str],
        passed: tuple[int, ...],
        variables: dict[str, str],
    ) -> _Process:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "trainer", *command),
            *("--lifeline-fd", str(self._lifeline_fd)),
            env={"OMP_NUM_THREADS": "1", **os.environ, **variables},
            pass_fds=(self._lifeline_fd, *passed),
            # Ctrl-C is for the launcher: it decides who ends when.
            start_new_session=True,
        )
        self._alive[node] = process
        return process

    def _own_command(self) -> list[str]:
        """Return what starts this again."""
        command = [sys.executable, "-m", "trainer", "launch", "fl", self._run_dir]
        if self.known.max_restarts:
            command += ["--max-restarts", str(self.known.max_restarts)]
        return [*command, *as_flags(self.config)]

    def _stop(self, number: int) -> None:
        """End the server; it sees its clients off."""
        self._signal = self._signal or number
        self._is_leaving = True
        self._send(SERVER, signal.SIGTERM)

    def _send(self, node: str, number: int) -> None:
        if node in self._alive:
            with contextlib.suppress(ProcessLookupError):
                self._alive[node].send_signal(number)
