"""Decide which checkpoint a run resumes from, and read it on every rank.

Rank 0 decides and reads every byte back before anybody loads. The others look
at the checkpoint through their own view of the file system, which may lag, and
check the very bytes that they unpickle: digest first, then `weights_only`.
"""

import time
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import torch

from agent.rundir.checkpoints import (
    CheckpointEntry,
    Stage,
    find_checkpoint,
    list_checkpoints,
)
from agent.rundir.errors import (
    DamagedCheckpointError,
    NoCheckpointError,
    RunDirError,
    UnreadableFileError,
)
from agent.rundir.events import CheckpointRefused
from agent.rundir.layout import STATE_NAME, RunDir
from agent.rundir.manifest import FileEntry, Manifest, read_manifest
from agent.rundir.verify.digest import new_hasher
from trainer.checkpoint.lock import publishing
from trainer.checkpoint.telling import Emit
from trainer.checkpoint.verify import verify_published

AUTO, NEVER = "auto", "never"
_VIEW_POLL_S = 0.1
_BLOCK_BYTES = 8 << 20


class Decision(msgspec.Struct, frozen=True):
    """Where a start begins. Made by rank 0, equal on all ranks."""

    name: str | None = None
    """Of the checkpoint; None: from the beginning."""
    digest: str | None = None
    """Of its manifest."""
    step: int = 0
    """Steps completed."""
    number: int = 0
    """In its name; differs from `step` for a static graph's early save."""
    remarks: tuple[str, ...] = ()
    """What an operator has to know, e.g. which newer one was passed over."""


class Loaded(NamedTuple):
    """A checkpoint in memory."""

    state: dict[str, Any]
    manifest: Manifest


def decide(run: RunDir, resume: str, emit: Emit) -> Decision:
    """Choose the checkpoint to resume from, and verify it. Rank 0 only.

    Args:
        run: The run.
        resume: `auto`, `never`, or a checkpoint's name.
        emit: Is told about every checkpoint that is refused.

    Raises:
        NoCheckpointError: there are checkpoints, and none can be resumed from;
            or there is none of that name.
        DamagedCheckpointError: the named one is damaged.
    """
    if resume == NEVER or not run.checkpoints.is_dir():
        if resume not in (AUTO, NEVER):
            find_checkpoint(run, resume)
        return Decision()
    with publishing(run):
        if resume != AUTO:
            return _decide_named(run, resume, emit)
        return _decide_auto(run, emit)


def _decide_named(run: RunDir, name: str, emit: Emit) -> Decision:
    entry = find_checkpoint(run, name)
    if not _is_in_place(entry):
        raise NoCheckpointError(
            f"checkpoint `{entry.path.name}` cannot be resumed from: {entry.why_not}",
            hint=f"opsdash checkpoints {run.path}",
        )
    problem = _problem_with(run, entry, emit)
    if problem is not None:
        raise DamagedCheckpointError(
            f"checkpoint `{name}` is {problem}",
            hint=f"opsdash resume {run.path}   # takes the newest one that verifies",
        )
    return _decision(entry, ())


def _decide_auto(run: RunDir, emit: Emit) -> Decision:
    """Take the newest sound one; one that was never verified is verified now."""
    refused: list[str] = []
    for entry in filter(_is_in_place, list_checkpoints(run)):
        problem = _problem_with(run, entry, emit)
        if problem is None:
            return _decision(entry, tuple(refused))
        refused.append(f"checkpoint `{entry.name}` is passed over: it is {problem}")
    if refused:
        raise NoCheckpointError(
            f"`{run.path}` has no checkpoint to resume from: " + "; ".join(refused),
            hint="the same command with --resume never starts from the beginning",
        )
    return Decision()


def _is_in_place(entry: CheckpointEntry) -> bool:
    return entry.stage in (Stage.PUBLISHED, Stage.VERIFIED, Stage.DAMAGED)


def _problem_with(run: RunDir, entry: CheckpointEntry, emit: Emit) -> str | None:
    """Verify a checkpoint and say what is wrong with it; None: nothing."""
    verified = verify_published(run, entry.name, emit, by="load")
    if verified.is_sound and entry.manifest is not None:
        return None
    problem = f"{verified.state}: {verified.why}".removesuffix(": ")
    emit(CheckpointRefused, checkpoint=entry.name, reason=problem)
    return problem


def _decision(entry: CheckpointEntry, remarks: tuple[str, ...]) -> Decision:
    assert entry.manifest is not None
    return Decision(
        name=entry.name,
        digest=entry.digest,
        step=entry.manifest.step or 0,
        number=entry.number,
        remarks=remarks,
    )


def load_decided(run: RunDir, decision: Decision, *, view_limit_s: float) -> Loaded:
    """Read the decided checkpoint through this rank's own view of the disk.

    Args:
        run: The run.
        decision: Of rank 0.
        view_limit_s: How long this rank's view may lag behind rank 0's.

    Raises:
        DamagedCheckpointError: this rank sees other bytes.
        RunDirError: this rank sees no such checkpoint.
    """
    assert decision.name is not None
    directory = run.checkpoints / decision.name
    manifest = _wait_for_manifest(directory, decision, view_limit_s)
    entry = next((e for e in manifest.files if e.name == STATE_NAME), None)
    if entry is None:
        raise UnreadableFileError(f"`{directory}` has no `{STATE_NAME}`")
    return Loaded(load_state(directory / STATE_NAME, entry), manifest)


def load_state(path: Path, entry: FileEntry) -> dict[str, Any]:
    """Unpickle a file whose bytes have been checked, with the same open file.

    Raises:
        DamagedCheckpointError: size or digest are not the manifest's.
        UnreadableFileError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            found = file_digest(file, like=entry.digest)
            if found != entry.digest:
                raise DamagedCheckpointError(
                    f"`{path}` has digest `{found}`, its manifest says "
                    f"`{entry.digest}`",
                    hint=f"opsdash verify {path.parent}",
                )
            file.seek(0)
            state: dict[str, Any] = torch.load(
                file, map_location="cpu", weights_only=True
            )
    except OSError as error:
        raise UnreadableFileError(f"`{path}` cannot be read: {error}") from error
    return state


def file_digest(file: Any, *, like: str) -> str:  # noqa: ANN401 - an open binary file of any kind
    """Return the digest of a file from where it stands, of the kind of another.

    Raises:
        UnreadableFileError: `like` is of a kind that this version does not know.
    """
    try:
        hasher = new_hasher(like)
    except ValueError:
        hasher = None
    if hasher is None:
        raise UnreadableFileError(f"`{like}` is not a digest that can be checked here")
    kind = like.partition(":")[0]
    while block := file.read(_BLOCK_BYTES):
        hasher.update(memoryview(block))
    return f"{kind}:{hasher.hexdigest()}"


def _wait_for_manifest(
    directory: Path, decision: Decision, view_limit_s: float
) -> Manifest:
    """Return the manifest that rank 0 saw, once this rank sees it and its files.

    Files that stay away are for whoever opens them to tell.
    """
    deadline = time.monotonic() + view_limit_s
    while True:
        try:
            manifest, digest = read_manifest(directory)
        except RunDirError:
            if time.monotonic() >= deadline:
                raise
        else:
            is_late = time.monotonic() >= deadline
            if digest == decision.digest:
                if is_late or _sees_all_of(manifest, directory):
                    return manifest
            elif is_late:
                raise DamagedCheckpointError(
                    f"`{directory}` has another manifest here than on rank 0: "
                    f"`{digest}` instead of `{decision.digest}`",
                    hint=f"opsdash verify {directory}",
                )
        time.sleep(_VIEW_POLL_S)


def _sees_all_of(manifest: Manifest, directory: Path) -> bool:
    try:
        found = [(directory / entry.name).stat().st_size for entry in manifest.files]
    except OSError:
        return False
    return found == [entry.size_bytes for entry in manifest.files]
