"""`python -m trainer fl-client`: take part in a federation's rounds."""

import argparse
import asyncio
import contextlib
import os
import time
from pathlib import Path

from agent.rundir.atomic import write_new
from agent.rundir.attempts import RunIdentity, encode_document, read_identity
from agent.rundir.errors import NotARunError, RunDirError
from agent.rundir.layout import SCHEMA, RunDir
from trainer.console import complain, say
from trainer.federated.client_events import ClientEvents
from trainer.federated.client_store import ClientStore
from trainer.federated.learner import Learner
from trainer.federated.lifeline import Stops
from trainer.federated.membership import Membership
from trainer.federated.messages import Over
from trainer.federated.participant import Participant
from trainer.federated.problem import Settings, client_data
from trainer.federated.security import (
    TOKEN_VARIABLE,
    client_security,
    parse_endpoint,
)
from trainer.federated.terms import is_client_key
from trainer.federated.workbench import Workbench
from trainer.settings import UsageError, UsageParser


def main(arguments: list[str]) -> int:
    """Run the command; return 0, or 128 plus the signal that ended it.

    Raises:
        RunDirError: it could not take part, or had to leave early.
    """
    known = _parser().parse(arguments)
    if not is_client_key(known.key):
        raise UsageError(
            f"`{known.key!a}` cannot name a client: use letters, digits, `.`, `_`, "
            "`-`, and not the server's own name",
            hint="--key client-1",
        )
    over, signalled = asyncio.run(_take_part(known))
    say(f"{known.key}: {over.reason}")
    return 0 if signalled is None else 128 + signalled


def _parser() -> UsageParser:
    parser = UsageParser(prog="python -m trainer fl-client", description=__doc__)
    parser.add_argument(
        "run_dir", type=Path, metavar="RUN_DIR", help="on this host; made if missing"
    )
    parser.add_argument(
        "--key", required=True, help="this client's name, stable over restarts"
    )
    parser.add_argument("--server", required=True, metavar="HOST:PORT")
    parser.add_argument(
        "--data", type=Path, help="this host's examples; default: as the server says"
    )
    parser.add_argument(
        "--tls-ca",
        type=Path,
        metavar="PEM",
        help=f"whom to trust; with {TOKEN_VARIABLE} needed beyond loopback",
    )
    parser.add_argument(
        "--give-up-s",
        type=float,
        default=300.0,
        metavar="SECONDS",
        help="how long a server that is gone is tried again (default: %(default)s)",
    )
    parser.add_argument("--lifeline-fd", type=int, help=argparse.SUPPRESS)
    return parser


async def _take_part(known: argparse.Namespace) -> tuple[Over, int | None]:
    endpoint = parse_endpoint(known.server)
    security = client_security(
        endpoint, token=os.environ.get(TOKEN_VARIABLE), authority=known.tls_ca
    )
    surroundings = Surroundings(RunDir(known.run_dir.absolute()), known.key, known.data)
    membership = Membership(
        known.key,
        endpoint,
        security,
        Participant(surroundings.make_workbench, surroundings.make_events),
        give_up_s=known.give_up_s,
    )
    stops = Stops(membership.stop, known.lifeline_fd)
    return await membership.run(), stops.signal


class Surroundings:
    """Where this client keeps things, and what it trains on."""

    def __init__(self, run: RunDir, key: str, data: Path | None) -> None:
        self._run = run
        self._key = key
        self._data = data
        self._seed = 0
        self._run_id = ""

    def make_workbench(self, settings: Settings, run_id: str) -> Workbench:
        """Return model, optimizer and store for the settings of a run.

        A store that cannot be opened is told; training goes on without it.

        Raises:
            RunDirError: there is no data for this client, or the directory is
                another run's.
        """
        self._run_id = run_id
        self._make_run()
        config = settings.config
        self._seed = config.seed
        data = client_data(config, self._key, self._data)
        learner = Learner(config, settings.shape, self._key, data)
        try:
            path = self._run.chunk_store(self._key)
            store = ClientStore(path, run_id=run_id, config=config)
        except RunDirError as error:
            complain(error)
            store = None
        return Workbench(learner, config, store)

    def _make_run(self) -> None:
        """Say whose run this directory is, where the server has not: on another host.

        Raises:
            NotARunError: it is another run's.
        """
        run_id = self._run_id
        if not self._run.identity.exists():
            mine = RunIdentity(
                schema=SCHEMA,
                run_id=run_id,
                kind="federated",
                created_ns=time.time_ns(),
            )
            # Whatever keeps it from being written keeps telemetry away too, and
            # is told with that; training goes on.
            with contextlib.suppress(OSError):
                self._run.path.mkdir(parents=True, exist_ok=True)
                write_new(self._run.identity, encode_document(mine))
        if self._run.identity.exists() and read_identity(self._run).run_id != run_id:
            raise NotARunError(
                f"`{self._run.path}` belongs to another run than the server's, "
                f"`{run_id}`",
                hint="python -m trainer fl-client ANOTHER_DIR …",
            )

    def make_events(self, attempt: int, workbench: Workbench) -> ClientEvents:
        """Return what tells an attempt of the run.

        Raises:
            NotARunError: the directory is another run's by now.
        """
        self._make_run()
        say(f"{self._key}: taking part in attempt {attempt}")
        return ClientEvents(
            self._run.path, self._key, attempt, seed=self._seed, workbench=workbench
        )
