"""Read a published checkpoint back, and write down what was found.

`verified.jsonl` has one writer at a time: whoever holds the publishing lock.
"""

import contextlib
import os
import time
from dataclasses import dataclass
from pathlib import Path

from agent.rundir.atomic import write_all
from agent.rundir.checkpoints import Verification, encode_verification
from agent.rundir.errors import RunDirError
from agent.rundir.events import CheckpointVerified
from agent.rundir.layout import RunDir
from agent.rundir.manifest import read_manifest
from agent.rundir.verify.path import verify_path
from agent.rundir.verify.verdict import Level, State
from trainer.checkpoint.telling import Emit


@dataclass(frozen=True)
class Verified:
    """What reading a checkpoint back has shown."""

    name: str
    digest: str | None
    state: str
    why: str

    @property
    def is_sound(self) -> bool:
        """Whether it may be resumed from."""
        return self.state == State.SOUND.value


def verify_published(run: RunDir, name: str, emit: Emit, *, by: str) -> Verified:
    """Compare every byte on the disk with the manifest, and record the result.

    Args:
        run: The run.
        name: Of the checkpoint's directory.
        emit: Is told the result.
        by: Who asked: `save`, `load`, or an operator.

    Raises:
        OSError: the result cannot be recorded.
    """
    path = run.checkpoints / name
    began = time.monotonic_ns()
    evict(path)
    verdict = verify_path(path, Level.CONTENT)
    why = "; ".join(finding.message for finding in verdict.findings[:3])
    digest = _digest_or_none(path)
    record(
        run,
        Verification(
            checkpoint=name,
            digest=digest,
            time_ns=time.time_ns(),
            state=verdict.state.value,
            level=Level.CONTENT.value,
            by=by,
        ),
    )
    emit(
        CheckpointVerified,
        checkpoint=name,
        digest=digest,
        state=verdict.state.value,
        level=Level.CONTENT.value,
        verify_ns=time.monotonic_ns() - began,
        by=by,
    )
    return Verified(name, digest, verdict.state.value, why)


def record(run: RunDir, verification: Verification) -> None:
    """Append one line to `verified.jsonl`, durably; a torn line is ended first.

    Raises:
        OSError: it cannot be written.
    """
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
    fd = os.open(run.verified, flags, 0o666)
    try:
        line = encode_verification(verification)
        size = os.fstat(fd).st_size
        if size and os.pread(fd, 1, size - 1) != b"\n":
            line = b"\n" + line
        write_all(fd, line)
        os.fsync(fd)
    finally:
        os.close(fd)


def evict(directory: Path) -> None:
    """Drop a directory's files from the page cache, so that reading hits the disk.

    A hint to the system: where it cannot be given, the cache is read.
    """
    for path in directory.iterdir() if directory.is_dir() else ():
        with contextlib.suppress(OSError):
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            try:
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(fd)


def _digest_or_none(path: Path) -> str | None:
    try:
        return read_manifest(path)[1]
    except RunDirError:
        return None
