"""Begin an attempt on all ranks: one of them decides, all know.

Rank 0 takes the run, chooses and verifies the checkpoint to resume from and
records the attempt; the others learn its number through the store, or raise the
same error. What happened to checkpoints before anybody was attached is kept,
and told once an agent is there.
"""

import contextlib
import os
import platform
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import torch

from agent.rundir.attempts import CHECKPOINT_PLACE
from agent.rundir.events import Event
from agent.start import RunStart, begin_run
from trainer.catalogue import as_flags, lasting
from trainer.checkpoint.load import AUTO, Decision, decide
from trainer.config import TrainConfig
from trainer.distributed.verdict import from_main
from trainer.distributed.world import World


class Beginning(msgspec.Struct, frozen=True):
    """What every rank knows of the attempt that begins."""

    run_id: str
    attempt: int
    decision: Decision
    identity: str
    """What defines the run, as rank 0 sees it; each rank compares its own."""


@dataclass
class BeforeAttach:
    """Events that happened before there was an agent to tell."""

    events: list[tuple[type[Event], dict[str, Any]]] = field(default_factory=list)

    def emit(self, event_type: type[Event], /, **fields: Any) -> None:  # noqa: ANN401 - of any event
        """Keep an event."""
        self.events.append((event_type, fields))


@contextlib.contextmanager
def begun(
    world: World,
    run_dir: Path,
    config: TrainConfig,
    identity: dict[str, Any],
    *,
    resume_command: list[str] | None,
    early: BeforeAttach,
) -> Iterator[Beginning]:
    """Hold the run for the length of a block. Every rank has to call it.

    Args:
        world: All ranks.
        run_dir: Made if missing.
        config: Says what to resume from.
        identity: What must not change between two starts, in plain types.
        resume_command: What starts the next attempt; None: nothing is known.
        early: Receives what happens to checkpoints on rank 0.

    Raises:
        RunDirError: the start is refused, on every rank with the same words.
    """
    starts: list[RunStart] = []

    def begin() -> str:
        start = begin_run(
            run_dir, kind="ddp", config=identity, new_attempt=config.new_attempt
        )
        starts.append(start)
        resume = AUTO if is_restart() else config.resume
        decision = decide(start.run, resume, early.emit)
        start.record(
            resume_command=resume_command,
            world_size=world.world_size,
            num_nodes=world.num_nodes,
            versions=versions(),
            resumed_from=decision.name,
            resumed_step=decision.step if decision.name else None,
            parent_digest=decision.digest,
        )
        beginning = Beginning(
            run_id=start.identity.run_id,
            attempt=start.attempt,
            decision=decision,
            identity=_text(identity),
        )
        return msgspec.json.encode(beginning).decode()

    try:
        told = from_main(world, "run.begin", begin, limit_s=config.load_limit_s)
        yield msgspec.json.decode(told, type=Beginning)
    finally:
        for start in starts:
            start.release()


def differs(beginning: Beginning, identity: dict[str, Any]) -> str | None:
    """Say what this rank has otherwise than rank 0; None: nothing."""
    if _text(identity) == beginning.identity:
        return None
    theirs = msgspec.json.decode(beginning.identity, type=dict[str, Any])
    ours = msgspec.json.decode(_text(identity), type=dict[str, Any])
    name = next(n for n in sorted(theirs | ours) if theirs.get(n) != ours.get(n))
    return f"`{name}` is `{ours.get(name)}` here and `{theirs.get(name)}` on rank 0"


def resume_command(run_dir: Path, config: TrainConfig, world: World) -> list[str]:
    """Return the command that starts the next attempt, with absolute paths.

    Everything that is not a default is a flag, also what came from the
    environment or from a file; what was meant for one start only is left out.
    """
    plain = as_flags(lasting(config))
    nodes = []
    if world.num_nodes > 1:
        nodes = ["--nnodes", str(world.num_nodes), "--node-rank", "0"]
        nodes += ["--master-addr", os.environ.get("MASTER_ADDR", "")]
        nodes += ["--master-port", os.environ.get("MASTER_PORT", "")]
    return [
        *(sys.executable, "-m", "trainer", "launch", "ddp", str(run_dir.absolute())),
        *("--nproc", str(world.local_world_size)),
        *nodes,
        *plain,
        *("--resume", CHECKPOINT_PLACE),
    ]


def is_restart() -> bool:
    """Whether torchrun started these ranks again after some of them failed.

    What the command line said about resuming was meant for the first ones.
    """
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") or 0) > 0


def versions() -> dict[str, str]:
    """Return what the numbers of a run depend on."""
    found = {"python": platform.python_version(), "torch": str(torch.__version__)}
    if torch.version.cuda:
        found["cuda"] = torch.version.cuda
    return found


def _text(identity: dict[str, Any]) -> str:
    return msgspec.json.encode(identity, order="sorted").decode()
