"""Run the same federation on Flower, for those that outgrow one network.

Flower brings what leaves the house needs: enrolment and authentication of
nodes, TLS, firewalls. Model, averaging, client state, store and telemetry are
ours. Flower starts a process per message, so a client lives on its disk: what
it may keep is settled with the server's record at every round, as after any
restart. Rounds are driven by looks at Flower, a second apart.

Flower is an extra and is loaded when a function here is called;
`examples/flower` is an app that uses both.
"""

import importlib.metadata
import os
import platform
import shlex
from pathlib import Path
from typing import Any

import torch

from agent.rundir.errors import RunDirError
from agent.rundir.layout import RunDir, round_checkpoint_name
from agent.session import Agent
from agent.start import RunStart, begin_run
from trainer.catalogue import settings
from trainer.federated.catching_up import catch_up
from trainer.federated.client import Surroundings
from trainer.federated.config import FederatedConfig, defining
from trainer.federated.flower_messages import (
    Answer,
    Assignment,
    Introduction,
    content,
    decode,
    flower,
    receive,
)
from trainer.federated.flower_rounds import FlowerRounds
from trainer.federated.global_model import GlobalModel
from trainer.federated.problem import Settings, server_data
from trainer.federated.server_events import ServerEvents
from trainer.federated.settings import read_config
from trainer.federated.terms import SERVER
from trainer.federated.transfer import Parcel, read_layout
from trainer.federated.workbench import Update, Workbench
from trainer.settings import UsageError, nearest

_RUN_DIR, _CONFIG, _RESUME_COMMAND = "run-dir", "config", "resume-command"


def serve(grid: Any, context: Any) -> None:  # noqa: ANN401 - Flower's
    """Be the `main` of a Flower ServerApp.

    Settings come from the app's configuration, with `-` for `_`, and from the
    TOML file that its `config` may name; `run-dir` says where the run is kept,
    and `resume-command`, as a shell would take it, what starts all this again.

    Raises:
        RunDirError: the run cannot begin or go on.
    """
    given = dict(context.run_config)
    run_dir = Path(str(given.pop(_RUN_DIR)))
    resume_command = _resume_command(str(given.pop(_RESUME_COMMAND, "")))
    config = _config(given)
    start = begin_run(run_dir, kind="federated", config=defining(config))
    try:
        _serve_attempt(grid, config, start, resume_command)
    finally:
        start.release()


def introduce(message: Any, context: Any) -> Any:  # noqa: ANN401 - Flower's
    """Be the `query` of a Flower ClientApp: say which client this node is."""
    introduction = Introduction(str(context.node_config["key"]))
    return flower().Message(content(introduction, {}), reply_to=message)


def train(message: Any, context: Any) -> Any:  # noqa: ANN401 - Flower's
    """Be the `train` of a Flower ClientApp.

    The node's configuration says `key`, and may say `run-dir` and `data`.

    Raises:
        RunDirError: this node cannot take part.
    """
    ask = decode(message, Assignment)
    node = context.node_config
    key, data = str(node["key"]), node.get("data")
    if ask.client != key:
        raise RunDirError(f"`{ask.client}` was asked, this node is `{key}`")
    run_dir = Path(str(node.get(_RUN_DIR) or context.run_config[_RUN_DIR]))
    surroundings = Surroundings(
        RunDir(run_dir.absolute()), key, Path(str(data)) if data else None
    )
    workbench = surroundings.make_workbench(ask.settings, ask.run_id)
    try:
        expected = workbench.averaged_layout()
        parcel = Parcel(read_layout(ask.layout, expected, "the server"))
        receive(message, parcel)
        update = _train(ask, parcel, workbench, surroundings)
    finally:
        workbench.close()
    lacking = {
        digest: payload
        for digest, payload in update.packed.payloads.items()
        if digest not in parcel.payloads
    }
    answer = Answer(client=key, offer=update.as_offer())
    return flower().Message(content(answer, lacking), reply_to=message)


def _train(
    ask: Assignment, parcel: Parcel, workbench: Workbench, surroundings: Surroundings
) -> Update:
    """Settle what may be kept, train the round, and store it."""
    events = surroundings.make_events(ask.attempt, workbench)
    with events.agent:  # an error is the last thing that it tells
        reset = workbench.settle(
            server_acked=ask.acked_round,
            attempt=ask.attempt,
            last_round=ask.round_num - 1,
            restored_round=ask.restored_round,
        )
        if reset is not None:
            events.reset(reset, ask.digest, ask.round_num)
        events.training(ask.round_num)
        workbench.prepare(ask.round_num, parcel.unpack())
        update = workbench.train(
            ask.round_num,
            ask.attempt,
            ask.digest,
            is_cancelled=lambda: False,
            on_step=lambda done: events.step_done(workbench.local.num_steps, done),
        )
        assert update is not None, "nobody cancels"
        if update.stored is not None:
            events.stored(ask.round_num, update.stored)
        events.ended("completed" if ask.is_last else "stopped")
    return update


def _config(given: dict[str, Any]) -> FederatedConfig:
    """Read the app's configuration.

    Raises:
        UsageError: a name is unknown, or a value is not what its setting takes.
    """
    file = given.pop(_CONFIG, "")
    flags = {name.replace("-", "_"): value for name, value in given.items()}
    known = {setting.name for setting in settings(FederatedConfig)}
    for name in flags:
        if name not in known:
            near = nearest(name, known)
            raise UsageError(
                f"the app's configuration has an unknown name `{name}`"
                + (f": did you mean `{near}`" if near else ""),
                hint="python -m trainer fl-server --help",
            )
    return read_config(flags, os.environ, Path(str(file)) if file else None)


def _resume_command(line: str) -> list[str] | None:
    """Return the words of a command; None: nothing is known.

    Raises:
        UsageError: a quote is not closed.
    """
    try:
        return shlex.split(line) or None
    except ValueError as error:
        raise UsageError(f"`{_RESUME_COMMAND}` cannot be read: {error}") from error


def _serve_attempt(
    grid: Any,  # noqa: ANN401 - Flower's
    config: FederatedConfig,
    start: RunStart,
    resume_command: list[str] | None,
) -> None:
    data = server_data(config)
    model = GlobalModel(
        start.run.chunk_store(SERVER),
        run_id=start.identity.run_id,
        config=config,
        data=data,
    )
    start.record(
        resume_command=resume_command,
        versions={
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "flwr": importlib.metadata.version("flwr"),
        },
        resumed_from=round_checkpoint_name(model.round_num)
        if model.round_num
        else None,
        resumed_step=model.round_num or None,
    )
    agent = Agent.attach(
        start.run.path,
        kind="federated",
        rank=-1,
        world_size=1,
        attempt=start.attempt,
        node=SERVER,
    )
    with agent:
        try:
            told = Settings(config=config, shape=data.shape)
            events = ServerEvents(agent)
            catch_up(events, model, start)
            rounds = FlowerRounds(grid, told, start, model, events)
            agent.ended(rounds.run())
        finally:
            model.close()
