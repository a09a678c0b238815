"""`python -m trainer fl-server`: begin an attempt, serve rounds, tell how it ended."""

import argparse
import asyncio
import contextlib
import importlib.metadata
import os
import platform
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import msgspec
import torch

from agent.rundir.errors import RunDirError
from agent.rundir.layout import RunDir, round_checkpoint_name
from agent.session import Agent
from agent.start import RunStart, begin_run
from trainer.catalogue import as_flags
from trainer.console import say
from trainer.federated.catching_up import catch_up
from trainer.federated.config import FederatedConfig, defining
from trainer.federated.coordinator import Coordinator
from trainer.federated.global_model import GlobalModel
from trainer.federated.lifeline import Stops
from trainer.federated.problem import Settings, server_data
from trainer.federated.requests import Obeying
from trainer.federated.security import (
    Endpoint,
    ServerSecurity,
    parse_endpoint,
    server_security,
)
from trainer.federated.server_events import ServerEvents
from trainer.federated.settings import read_config
from trainer.federated.terms import SERVER, Finish
from trainer.federated.transport import TransportServer
from trainer.settings import UsageParser, add_settings

_STOP_GRACE_S = 1.0


class FederationFailedError(RunDirError):
    """The federation could not go on; what was committed is durable."""

    exit_code = 1


def main(arguments: list[str]) -> int:
    """Run the command; return 0, or 128 plus the signal that ended it.

    Raises:
        RunDirError: it could not begin, or had to end early.
    """
    known = _parser().parse(arguments)
    config = read_config(vars(known), os.environ, known.config)
    endpoint = parse_endpoint(known.listen)
    security = server_security(
        endpoint,
        tokens=known.tokens,
        certificate=known.tls_cert,
        private_key=known.tls_key,
    )
    start = begin_run(
        known.run_dir,
        kind="federated",
        config=defining(config),
        new_attempt=known.new_attempt,
    )
    try:
        return _serve_attempt(start, config, endpoint, security, known)
    finally:
        start.release()


def _parser() -> UsageParser:
    parser = UsageParser(prog="python -m trainer fl-server", description=__doc__)
    parser.add_argument("run_dir", type=Path, metavar="RUN_DIR")
    group = parser.add_argument_group("serving")
    group.add_argument(
        "--listen",
        default="127.0.0.1:7070",
        metavar="HOST:PORT",
        help="where; port 0: any free one (default: %(default)s)",
    )
    group.add_argument(
        "--tokens",
        type=Path,
        metavar="FILE.json",
        help='each client\'s token, as {"client-1": "…"}; needed beyond loopback',
    )
    group.add_argument(
        "--tls-cert", type=Path, metavar="PEM", help="needed beyond loopback"
    )
    group.add_argument("--tls-key", type=Path, metavar="PEM", help="of --tls-cert")
    group.add_argument(
        "--new-attempt",
        action="store_true",
        help="continue the run although its configuration differs",
    )
    # For a launcher: where to tell the port, whose end is ours, how to resume.
    parser.add_argument("--announce-fd", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--lifeline-fd", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--resume-command", help=argparse.SUPPRESS)
    add_settings(parser, FederatedConfig)
    return parser


def _serve_attempt(
    start: RunStart,
    config: FederatedConfig,
    endpoint: Endpoint,
    security: ServerSecurity,
    known: argparse.Namespace,
) -> int:
    data = server_data(config)
    model = GlobalModel(
        start.run.chunk_store(SERVER),
        run_id=start.identity.run_id,
        config=config,
        data=data,
    )
    settings = Settings(config=config, shape=data.shape)
    with contextlib.closing(model), _attached(start, config, model, known) as agent:
        serving = _Serving(start, settings, model, agent, known)
        ended = asyncio.run(serving.run(endpoint, security))
        finish = ended.finish
        agent.ended(finish.reason, error=finish.detail)
    say(f"{finish.reason} after round {model.round_num} of {config.rounds}")
    if finish.reason == "error":
        raise ended.as_error(start.run, model.round_num)
    return 0 if ended.signalled is None else 128 + ended.signalled


class Ended(NamedTuple):
    """How an attempt ended."""

    finish: Finish
    failure: Exception | None
    """What was raised, if that ended it."""
    signalled: int | None = None
    """The signal that ended it; None: none did."""

    def as_error(self, run: RunDir, round_num: int) -> FederationFailedError:
        """Return what an operator is told; what was raised knows best what helps."""
        hint: str | None = f"opsdash events {run.path}"
        if isinstance(self.failure, RunDirError):
            hint = self.failure.hint
        return FederationFailedError(
            f"the federation ended after round {round_num}: {self.finish.detail}",
            hint=hint,
        )


@dataclass(frozen=True)
class _Serving:
    """One attempt, from listening to the last goodbye."""

    start: RunStart
    settings: Settings
    model: GlobalModel
    agent: Agent
    known: argparse.Namespace

    async def run(self, endpoint: Endpoint, security: ServerSecurity) -> Ended:
        """Return how it ended."""
        events = ServerEvents(self.agent)
        catch_up(events, self.model, self.start)
        coordinator = Coordinator(
            self.settings,
            self.model,
            run_id=self.start.identity.run_id,
            attempt=self.start.attempt,
            events=events,
        )
        stops = Stops(coordinator.stop, self.known.lifeline_fd)
        transport = TransportServer(
            endpoint,
            security,
            coordinator.reception.serve,
            coordinator.reception.turned_away,
        )
        _announce(await transport.start(), self.known.announce_fd)
        obeying = Obeying(events, coordinator, self.model, self.start.run)
        watching = asyncio.create_task(obeying.watch())
        try:
            finish = await coordinator.run()
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
            await transport.stop(_STOP_GRACE_S)
        return Ended(finish, coordinator.failure, stops.signal)


def _attached(
    start: RunStart,
    config: FederatedConfig,
    model: GlobalModel,
    known: argparse.Namespace,
) -> Agent:
    """Record the attempt, then open the server's telemetry."""
    resumed_from = round_checkpoint_name(model.round_num) if model.round_num else None
    start.record(
        resume_command=_resume_command(start.run, config, known),
        versions={
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "grpcio": importlib.metadata.version("grpcio"),
        },
        resumed_from=resumed_from,
        resumed_step=model.round_num or None,
    )
    return Agent.attach(
        start.run.path,
        kind="federated",
        rank=-1,
        world_size=1,
        attempt=start.attempt,
        node=SERVER,
    )


def _resume_command(
    run: RunDir, config: FederatedConfig, known: argparse.Namespace
) -> list[str]:
    """Return what starts the next attempt: the launcher's command, or this one."""
    if known.resume_command is not None:
        command: list[str] = msgspec.json.decode(known.resume_command, type=list[str])
        return command
    files = {
        "--tokens": known.tokens,
        "--tls-cert": known.tls_cert,
        "--tls-key": known.tls_key,
    }
    given = [
        part
        for flag, path in files.items()
        if path is not None
        for part in (flag, str(path.absolute()))
    ]
    command = [sys.executable, "-m", "trainer", "fl-server", str(run.path)]
    return [*command, "--listen", known.listen, *given, *as_flags(config)]


def _announce(where: Endpoint, announce_fd: int | None) -> None:
    """Say where clients find this server; a launcher reads it from a pipe."""
    say(f"listening at {where}")
    if announce_fd is not None:
        with os.fdopen(announce_fd, "w") as pipe:
            pipe.write(f"{where}\n")
