"""Make a checkpoint appear whole, durably, verified; or not at all.

Everything is written into `.partial-<name>` beside its final name: files first,
each synced, then the manifest, then the directory; one rename publishes it, and
the parent is synced. Only then is it read back, from the disk and not from the
page cache, and only a sound one becomes `latest`. One process of one run does
this at a time, under a lock that names its holder.

A disk without room is an outcome, not an error: what was there stays, our own
temporary goes, and training goes on. It is told.
"""

import contextlib
import errno
import os
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

import msgspec
import torch

from agent.rundir.atomic import fsync_directory, write_all, write_atomic
from agent.rundir.checkpoints import QUARANTINE_PREFIX
from agent.rundir.errors import RunDirError
from agent.rundir.events import (
    CheckpointPublished,
    CheckpointRefused,
    CheckpointSaving,
    DiskLow,
)
from agent.rundir.layout import MANIFEST_NAME, STATE_NAME, RunDir
from agent.rundir.manifest import (
    FileEntry,
    Manifest,
    encode_manifest,
    manifest_digest,
    read_manifest,
)
from agent.rundir.process import this_process
from agent.rundir.verify.path import verify_path
from agent.rundir.verify.verdict import Level, State
from trainer.checkpoint.describe import num_tensor_bytes
from trainer.checkpoint.hashing import HashingFile
from trainer.checkpoint.lock import (
    OWNER_NAME,
    clean_partials,
    make_partial,
    publishing,
)
from trainer.checkpoint.telling import Emit
from trainer.checkpoint.verify import Verified, verify_published

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
_ROOM_FACTOR = 1.2
"""Free space that a save asks for, over the last checkpoint's size."""
_RUNWAY = 3
"""Checkpoints that fit; with fewer, a warning is given."""


class Phases(NamedTuple):
    """What a file took, one phase after the other."""

    serialize_ns: int
    write_ns: int
    digest_ns: int
    """Waiting for the digest, which is made beside the writing."""
    fsync_ns: int


class Outcome(msgspec.Struct, frozen=True):
    """How a save ended, as all ranks are told."""

    name: str
    digest: str | None
    """Of the manifest; None: nothing was published."""
    refusal: str | None = None
    """Why there is no sound checkpoint of that name; None: there is."""
    seconds: float = 0.0
    """From the first byte to `latest`."""
    remark: str | None = None
    """What else an operator has to know; None: nothing."""


@dataclass
class Publisher:
    """Writes this run's checkpoints. Lives on rank 0 or the server."""

    run: RunDir
    emit: Emit
    last_bytes: int | None = None
    """Size of the last checkpoint written here; None: none was."""
    _started: float = field(default=0.0, init=False)

    def publish(self, name: str, state: dict[str, Any], facts: Manifest) -> Outcome:
        """Write, publish and verify one checkpoint.

        Args:
            name: `step-00001200`.
            state: What `torch.save` writes into `state.pt`.
            facts: The manifest, its files still missing.

        Raises:
            LockedError: another process publishes into this run.
            OSError: the disk failed for another reason than being full.
        """
        self._started = time.monotonic()
        self.emit(CheckpointSaving, checkpoint=name, reason=facts.reason)
        try:
            self.run.checkpoints.mkdir(parents=True, exist_ok=True)
            with publishing(self.run):
                clean_partials(self.run)
                self._require_room(state)
                digest = self._write_and_rename(name, state, facts)
                verified = verify_published(self.run, name, self.emit, by="save")
                return self._concluded(name, digest, verified)
        except OSError as error:
            if error.errno not in _NO_ROOM:
                raise
            return self._refuse(name, str(error.strerror).lower())

    def _concluded(self, name: str, digest: str, verified: Verified) -> Outcome:
        if not verified.is_sound:
            refusal = f"read back as {verified.state}: {verified.why}"
            self.emit(CheckpointRefused, checkpoint=name, reason=refusal)
            return Outcome(name, digest, refusal)
        write_atomic(self.run.latest, f"{name}\n".encode())
        return Outcome(name, digest, None, time.monotonic() - self._started)

    def _write_and_rename(
        self, name: str, state: dict[str, Any], facts: Manifest
    ) -> str:
        partial = make_partial(self.run, name)
        try:
            owner = msgspec.json.encode(this_process())
            write_file(partial / OWNER_NAME, owner)
            entry, phases = write_state(partial / STATE_NAME, state)
            written = time.monotonic_ns()
            manifest = msgspec.structs.replace(facts, files=(entry,))
            encoded = encode_manifest(manifest)
            write_file(partial / MANIFEST_NAME, encoded)
            digest = manifest_digest(encoded)
            if not self._publish_directory(partial, name, manifest):
                return read_manifest(self.run.checkpoints / name)[1]
        except BaseException:
            with contextlib.suppress(OSError):
                shutil.rmtree(partial)
            raise
        self.last_bytes = manifest.size_bytes
        self.emit(
            CheckpointPublished,
            checkpoint=name,
            digest=digest,
            size_bytes=manifest.size_bytes,
            **phases._asdict(),
            publish_ns=time.monotonic_ns() - written,
        )
        return digest

    def _publish_directory(self, partial: Path, name: str, manifest: Manifest) -> bool:
        """Rename the finished directory; False: the very same bytes are there."""
        (partial / OWNER_NAME).unlink()
        fsync_directory(partial)
        final = self.run.checkpoints / name
        if final.exists():
            if _has_files_of(final, manifest) and _is_sound(final):
                shutil.rmtree(partial)
                return False
            set_aside(final, QUARANTINE_PREFIX + name)
        partial.rename(final)
        fsync_directory(self.run.checkpoints)
        return True

    def _require_room(self, state: dict[str, Any]) -> None:
        expected = self.last_bytes or num_tensor_bytes(state)
        found = os.statvfs(self.run.checkpoints)
        free = found.f_bavail * found.f_frsize
        if free < _RUNWAY * expected:
            self.emit(DiskLow, free_bytes=free, checkpoint_bytes=expected)
        if free < _ROOM_FACTOR * expected:
            reason = f"{free} bytes are free, a checkpoint takes about {expected}"
            raise OSError(errno.ENOSPC, reason)

    def _refuse(self, name: str, why: str) -> Outcome:
        reason = f"no room: {why}"
        self.emit(CheckpointRefused, checkpoint=name, reason=reason)
        with contextlib.suppress(OSError):
            found = os.statvfs(self.run.path)
            self.emit(
                DiskLow,
                free_bytes=found.f_bavail * found.f_frsize,
                checkpoint_bytes=self.last_bytes or 0,
            )
        return Outcome(name, None, reason)


def write_state(path: Path, state: dict[str, Any]) -> tuple[FileEntry, Phases]:
    """Write a new file with `torch.save`, hashed on the way and synced.

    Returns:
        Its entry in the manifest, and how long it took.

    Raises:
        OSError: it cannot be written whole; torch's own error is its cause.
    """
    began = time.monotonic_ns()
    with path.open("xb", buffering=1 << 20) as file, HashingFile(file) as hashing:
        try:
            # torch asks for no more than `write` and `flush`.
            torch.save(state, cast("IO[bytes]", hashing))
            hashing.flush()
        except Exception as error:
            if hashing.error is not None and error is not hashing.error:
                raise hashing.error from error
            raise
        written = time.monotonic_ns()
        os.fsync(file.fileno())
        synced = time.monotonic_ns()
    entry = FileEntry(
        name=path.name, size_bytes=hashing.num_bytes, digest=hashing.digest
    )
    serialize_ns = written - began - hashing.write_ns - hashing.digest_ns
    phases = Phases(serialize_ns, hashing.write_ns, hashing.digest_ns, synced - written)
    return entry, phases


def write_file(path: Path, data: bytes) -> None:
    """Write a new file, synced; the caller syncs its directory."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        write_all(fd, data)
        os.fsync(fd)
    finally:
        os.close(fd)


def set_aside(path: Path, new_name: str) -> Path:
    """Rename a directory within its parent to a name that is free."""
    target = path.with_name(new_name)
    number = 1
    while target.exists():
        number += 1
        target = path.with_name(f"{new_name}.{number}")
    path.rename(target)
    fsync_directory(path.parent)
    return target


def _is_sound(directory: Path) -> bool:
    """Whether a checkpoint is worth keeping: a damaged one has the same manifest."""
    return verify_path(directory, Level.CONTENT).state is State.SOUND


def _has_files_of(directory: Path, manifest: Manifest) -> bool:
    try:
        found, _ = read_manifest(directory)
    except RunDirError:
        return False
    return found.files == manifest.files and found.step == manifest.step
