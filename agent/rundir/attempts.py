"""Who a run is and each of its starts: `run.json` and `attempts/0001.json`.

A run is written once; every start adds an attempt. What `resume` would start
is recorded here by the trainer, never guessed by a reader.
"""

from pathlib import Path
from typing import Any, TypeVar

import msgspec

from agent.rundir.errors import (
    NewerSchemaError,
    NotARunError,
    RunDirError,
    UnreadableFileError,
)
from agent.rundir.layout import SCHEMA, RunDir
from agent.rundir.process import ProcessId
from agent.rundir.reading import read_regular

CHECKPOINT_PLACE = "{checkpoint}"
"""Stands in a resume command where the checkpoint's name goes."""

_MAX_BYTES = 16 << 20
_Document = TypeVar("_Document")


class RunIdentity(msgspec.Struct, frozen=True, kw_only=True):
    """`run.json`."""

    schema: int
    run_id: str
    kind: str
    """`ddp` or `federated`."""
    created_ns: int


class Attempt(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One start of the run."""

    attempt: int
    started_ns: int
    process: ProcessId
    """Rank 0 or the server."""
    argv: tuple[str, ...]
    cwd: str
    resume_command: tuple[str, ...] | None = None
    """What starts the next attempt; None: the trainer gave none."""
    launch_id: str = ""
    world_size: int | None = None
    num_nodes: int = 1
    """Hosts of the process group."""
    batch_job: str | None = None
    """Inside which allocation it ran, e.g. `slurm 4711`."""
    config: dict[str, Any] = msgspec.field(default_factory=dict)
    versions: dict[str, str] = msgspec.field(default_factory=dict)
    environment: dict[str, str] = msgspec.field(default_factory=dict)
    """Variables that steer distributed training; never anything secret."""
    resumed_from: str | None = None
    resumed_step: int | None = None
    parent_digest: str | None = None


def read_identity(run: RunDir) -> RunIdentity:
    """Return who the run is.

    Raises:
        NotARunError: no such directory, or no `run.json` in it.
        UnreadableFileError: `run.json` is something else.
        NewerSchemaError: a newer version wrote it.
    """
    if not run.path.is_dir():
        raise NotARunError(
            f"`{run.path}` is not a directory",
            hint="opsdash attach   # picks the newest run below this directory",
        )
    if not run.identity.is_file():
        raise NotARunError(
            f"`{run.path}` has no `run.json`: no trainer has started there",
            hint=f"python -m trainer launch ddp {run.path} --nproc 2",
        )
    identity = _read(run.identity, RunIdentity)
    if identity.schema > SCHEMA:
        raise NewerSchemaError(
            f"`{run.identity}` has schema {identity.schema}, this version reads up to "
            f"{SCHEMA}",
            hint="pip install --upgrade opsdash",
        )
    return identity


def list_attempts(run: RunDir) -> list[int]:
    """Return the numbers of all attempts, in order."""
    try:
        names = [path.stem for path in run.attempts.iterdir() if path.suffix == ".json"]
    except OSError:
        return []
    return sorted(int(name) for name in names if name.isdecimal())


def read_attempt(run: RunDir, attempt: int) -> Attempt:
    """Return one start.

    Raises:
        UnreadableFileError: it is missing or not an attempt.
    """
    return _read(run.attempt_file(attempt), Attempt)


def read_newest_attempt(run: RunDir) -> Attempt | None:
    """Return the newest start that can be read; None where there is none."""
    for attempt in reversed(list_attempts(run)):
        try:
            return read_attempt(run, attempt)
        except RunDirError:
            continue
    return None


def encode_document(document: RunIdentity | Attempt) -> bytes:
    """Return a document as indented JSON: it is read by people too."""
    return msgspec.json.format(msgspec.json.encode(document), indent=1) + b"\n"


def fill_resume_command(attempt: Attempt, checkpoint: str) -> list[str] | None:
    """Return what to start to resume from a checkpoint; None: nothing recorded."""
    if attempt.resume_command is None:
        return None
    return [
        part.replace(CHECKPOINT_PLACE, checkpoint) for part in attempt.resume_command
    ]


def _read(path: Path, kind: type[_Document]) -> _Document:
    try:
        return msgspec.json.decode(read_regular(path, _MAX_BYTES), type=kind)
    except OSError as error:
        raise UnreadableFileError(
            f"`{path}` cannot be read: {error.strerror}"
        ) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UnreadableFileError(
            f"`{path}` is not what its name says: {error}"
        ) from error
