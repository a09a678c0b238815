"""Verify a checkpoint that another tool packed: readable, consistent, not torch's.

`torch.load` reads any zip with the right names in it. Its checksums can be
verified, its layout cannot: other writers leave freedom in every header.
"""

import os
import struct
import zipfile
import zlib
from collections.abc import Iterable

from agent.rundir.verify import torch_layout as layout
from agent.rundir.verify.archive import MAX_DIRECTORY_BYTES
from agent.rundir.verify.outcome import Outcome
from agent.rundir.verify.source import EndsEarlyError, Source
from agent.rundir.verify.task import Task
from agent.rundir.verify.text import plural, visible
from agent.rundir.verify.verdict import State

_BLOCK_BYTES = 1 << 20
_END_SIGNATURE = b"PK\x05\x06"
_LOCATOR_SIGNATURE = b"PK\x06\x07"
_END_BYTES = 22
_LOCATOR_BYTES = 20
_MAX_COMMENT_BYTES = 0xFFFF
_MAX_HEADERS = 10_000
_IS_ENCRYPTED = 0x1
_BROKEN = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    NotImplementedError,
    OSError,
    OverflowError,
    RuntimeError,
    ValueError,
)
"""What `zipfile` raises on damaged archives."""


def bears_torch_padding(source: Source, headers: Iterable[int]) -> bool:
    """Whether any local header has the padding that torch alone writes.

    Args:
        source: a file that is no archive as torch writes it.
        headers: where local headers may start, apart from byte 0.
    """
    for _, offset in zip(range(_MAX_HEADERS), (0, *headers), strict=False):
        fixed = source.read_up_to(offset, layout.LOCAL_FIXED_BYTES)
        if len(fixed) < layout.LOCAL_FIXED_BYTES:
            continue
        name_size = int.from_bytes(fixed[26:28], "little")
        extra_size = int.from_bytes(fixed[28:30], "little")
        extra = source.read_up_to(offset + len(fixed) + name_size, extra_size)
        # Alone, or after the zip64 field with its one to three numbers.
        if b"FB" in (extra[:2], extra[12:14], extra[20:22], extra[28:30]):
            return True
    return False


def verify_foreign_zip(source: Source, task: Task, outcome: Outcome) -> None:
    """Add what can be said about a zip file that torch did not write.

    Raises:
        EndsEarlyError: the file became shorter meanwhile.
        VerifyCancelled: the caller asked to stop.
    """
    directory_bytes = _directory_bytes(source)
    if directory_bytes is None:
        outcome.add(
            State.TRUNCATED,
            source.name,
            f"`{visible(source.name)}` starts as a zip archive and has no end",
            offset=source.size,
        )
    elif directory_bytes > MAX_DIRECTORY_BYTES:
        outcome.add(
            State.UNREADABLE,
            source.name,
            f"the archive claims a directory of {plural(directory_bytes, 'byte')}",
        )
    else:
        _verify_guarded(source, task, outcome)


def _directory_bytes(source: Source) -> int | None:
    """Return the size that the directory claims; None without an end record."""
    start = max(0, source.size - _END_BYTES - _MAX_COMMENT_BYTES)
    data = source.read_up_to(start, source.size)
    at = data.rfind(_END_SIGNATURE)
    if at < 0 or len(data) - at < _END_BYTES:
        return None
    claimed = int.from_bytes(data[at + 12 : at + 16], "little")
    locator = data[max(0, at - _LOCATOR_BYTES) : at]
    if locator.startswith(_LOCATOR_SIGNATURE):
        end64 = source.read_up_to(int.from_bytes(locator[8:16], "little"), 56)
        near = data[max(0, at - _LOCATOR_BYTES - 56) : at]
        claims = (end64[40:48], near[40:48])
        claimed = max(int.from_bytes(claim, "little") for claim in claims)
    return claimed


def _verify_guarded(source: Source, task: Task, outcome: Outcome) -> None:
    with os.fdopen(os.dup(source.fd), "rb") as file:
        try:
            with zipfile.ZipFile(file) as archive:
                _verify(archive, source, task, outcome)
        except _BROKEN as error:
            if source.changed():
                raise EndsEarlyError(source.size) from error
            outcome.add(
                State.DAMAGED,
                source.name,
                f"the zip archive is broken: {visible(str(error))}",
            )


def _verify(
    archive: zipfile.ZipFile, source: Source, task: Task, outcome: Outcome
) -> None:
    infos = archive.infolist()
    if not any(info.filename.endswith("/data.pkl") for info in infos):
        outcome.add(
            State.UNREADABLE,
            source.name,
            "it is a zip archive, but not a checkpoint: no `data.pkl` in a folder",
        )
        return
    if sum(info.compress_size for info in infos) > source.size:
        outcome.add(State.DAMAGED, source.name, "records of the archive overlap")
        return
    outcome.add(
        State.NON_CANONICAL,
        source.name,
        "the archive is consistent, but another tool than torch packed it",
    )
    if task.with_content:
        for info in infos:
            _verify_record(archive, info, source, task, outcome)


def _verify_record(
    archive: zipfile.ZipFile,
    info: zipfile.ZipInfo,
    source: Source,
    task: Task,
    outcome: Outcome,
) -> None:
    name = info.filename.partition("/")[2]
    is_readable = info.compress_type in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}
    if info.flag_bits & _IS_ENCRYPTED or not is_readable:
        outcome.add(
            State.UNREADABLE,
            source.name,
            f"the record `{visible(name)}` is encrypted or packed in a way that "
            "torch cannot read",
            record=name,
            offset=info.header_offset,
        )
        return
    try:
        with archive.open(info) as content:
            while content.read(_BLOCK_BYTES):
                task.watch.check()
    except _BROKEN as error:
        if source.changed():
            raise
        outcome.add(
            State.DAMAGED,
            source.name,
            f"the record `{visible(name)}` is damaged: {visible(str(error))}",
            record=name,
            offset=info.header_offset,
        )
    task.watch.advance(info.compress_size)
