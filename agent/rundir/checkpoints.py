"""The checkpoints of a run: what is published, verified, set aside or torn.

A pure read of names, manifests and `verified.jsonl`; no payload byte is
touched, so listing hundreds of checkpoints takes milliseconds. Whether the
bytes are sound is for `agent.rundir.verify` to say.
"""

import contextlib
import re
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

import msgspec

from agent.rundir.errors import NoCheckpointError, RunDirError
from agent.rundir.layout import RunDir, parse_checkpoint_name
from agent.rundir.manifest import Manifest, read_manifest
from agent.rundir.reading import read_regular

PARTIAL_PREFIX = ".partial-"
SUPERSEDED_PREFIX = ".superseded-"
QUARANTINE_PREFIX = ".quarantine-"
DOOMED_PREFIX = ".doomed-"
"""Renamed by retention before its files are unlinked."""

_SET_ASIDE = re.compile(
    r"\.(partial|doomed|quarantine|superseded-\d+)-(.+?)(?:\.\d+)?", re.DOTALL
)
"""What is set aside under a name that was taken gets a number at its end."""
_MAX_LOG_BYTES = 64 << 20


class Stage(StrEnum):
    """Where a checkpoint is in its life."""

    WRITING = "writing"
    PUBLISHED = "published"
    VERIFIED = "verified"
    DAMAGED = "damaged"
    QUARANTINED = "quarantined"
    SUPERSEDED = "superseded"
    FOREIGN = "foreign"
    """Something else that lies in `checkpoints/`; never touched."""


_STAGES = {
    "partial": Stage.WRITING,
    "doomed": Stage.WRITING,
    "quarantine": Stage.QUARANTINED,
    "superseded": Stage.SUPERSEDED,
}


class Verification(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line of `verified.jsonl`."""

    checkpoint: str
    digest: str | None
    """Of the manifest at that time; another one means another checkpoint."""
    time_ns: int
    """Wall clock, Unix ns."""
    state: str
    level: str
    by: str
    pinned: bool | None = None
    """Set by `pin` and `unpin`; None where the line is a verification."""


class CheckpointEntry(NamedTuple):
    """One directory below `checkpoints/`."""

    path: Path
    name: str
    """Without the prefix that sets it aside."""
    stage: Stage
    number: int
    """Step or round; -1 where the name tells none."""
    manifest: Manifest | None
    digest: str | None
    verification: Verification | None
    is_pinned: bool
    why_not: str | None
    """Why it cannot be resumed from; None: it can."""


def list_checkpoints(run: RunDir) -> list[CheckpointEntry]:
    """Return all checkpoints, newest step first, set-aside ones after their step."""
    try:
        paths = [path for path in run.checkpoints.iterdir() if path.is_dir()]
    except OSError:
        return []
    log = read_verifications(run)
    entries = [_entry(path, log) for path in paths]
    return sorted(entries, key=lambda e: (-e.number, e.path.name.startswith(".")))


def resumable(entries: list[CheckpointEntry]) -> list[CheckpointEntry]:
    """Return those that may be resumed without being named, best first."""
    return [entry for entry in entries if entry.why_not is None]


def newest_resumable(run: RunDir) -> CheckpointEntry:
    """Return the newest verified checkpoint.

    Raises:
        NoCheckpointError: there is none; the message says what is there.
    """
    entries = list_checkpoints(run)
    for entry in resumable(entries):
        return entry
    found = ", ".join(f"`{e.path.name}`: {e.why_not}" for e in entries[:3])
    raise NoCheckpointError(
        f"`{run.path}` has no checkpoint to resume from"
        + (f" ({found})" if found else ""),
        hint=f"opsdash verify {run.path}",
    )


def find_checkpoint(run: RunDir, name: str) -> CheckpointEntry:
    """Return the checkpoint of that name, set aside or not.

    Raises:
        NoCheckpointError: no such checkpoint.
    """
    entries = list_checkpoints(run)
    for entry in entries:
        if name in (entry.path.name, entry.name):
            return entry
    raise NoCheckpointError(
        f"`{run.path}` has no checkpoint `{name}`",
        hint=f"opsdash checkpoints {run.path}",
    )


def read_verifications(run: RunDir) -> list[Verification]:
    """Return every readable line of `verified.jsonl`, oldest first."""
    try:
        data = read_regular(run.verified, _MAX_LOG_BYTES)
    except OSError:
        return []
    found = []
    for line in data.split(b"\n"):
        with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError):
            found.append(_verification_decoder.decode(line))
    return found


def encode_verification(verification: Verification) -> bytes:
    """Return one line of `verified.jsonl`."""
    return msgspec.json.encode(verification) + b"\n"


def read_latest(run: RunDir) -> str | None:
    """Return the name in `latest`; None where there is none that makes sense."""
    try:
        name = read_regular(run.latest, 256).decode().strip()
    except (OSError, UnicodeDecodeError):
        return None
    return name if parse_checkpoint_name(name) else None


_verification_decoder = msgspec.json.Decoder(Verification)


def _entry(path: Path, log: list[Verification]) -> CheckpointEntry:
    stage, name = _stage_by_name(path.name)
    parsed = parse_checkpoint_name(name)
    manifest, digest, problem = None, None, None
    if stage is not Stage.FOREIGN:
        try:
            manifest, digest = read_manifest(path)
        except RunDirError as error:
            problem = str(error)
    mine = [v for v in log if v.checkpoint == name and v.digest == digest]
    last = next((v for v in reversed(mine) if v.pinned is None), None)
    if stage is Stage.PUBLISHED:
        stage, problem = _stage_of_published(path, manifest, last, problem)
    else:
        problem = _WHY_NOT.get(stage, problem)
    return CheckpointEntry(
        path=path,
        name=name,
        stage=stage,
        number=parsed.number if parsed else -1,
        manifest=manifest,
        digest=digest,
        verification=last,
        is_pinned=_is_pinned(mine),
        why_not=problem,
    )


_WHY_NOT = {
    Stage.WRITING: "it was not written to the end",
    Stage.QUARANTINED: "it is set aside: its name was taken by other bytes",
    Stage.SUPERSEDED: "it is on a branch that a later attempt gave up",
    Stage.FOREIGN: "it is not a checkpoint of this run",
}


def _stage_by_name(name: str) -> tuple[Stage, str]:
    if match := _SET_ASIDE.fullmatch(name):
        return _STAGES[match[1].partition("-")[0]], match[2]
    if parse_checkpoint_name(name):
        return Stage.PUBLISHED, name
    return Stage.FOREIGN, name


def _stage_of_published(
    path: Path,
    manifest: Manifest | None,
    last: Verification | None,
    problem: str | None,
) -> tuple[Stage, str | None]:
    if manifest is None:
        return Stage.DAMAGED, problem
    if last is not None and last.state in (
        "damaged",
        "truncated",
        "changed_since_save",
    ):
        return Stage.DAMAGED, f"the last verification found it {last.state}"
    for entry in manifest.files:
        try:
            found = (path / entry.name).stat().st_size
        except OSError as error:
            return Stage.DAMAGED, f"`{entry.name}`: {error.strerror}"
        if found != entry.size_bytes:
            return Stage.DAMAGED, (
                f"`{entry.name}` has {found} bytes, its manifest says "
                f"{entry.size_bytes}"
            )
    if last is None or last.state != "sound":
        return Stage.PUBLISHED, "it was never verified"
    return Stage.VERIFIED, None


def _is_pinned(log: list[Verification]) -> bool:
    return next((v.pinned for v in reversed(log) if v.pinned is not None), False)
