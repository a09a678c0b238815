"""Archives and checkpoints to verify, written without the code under test."""

import hashlib
import io
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import blake3
import torch

from agent.rundir.layout import MANIFEST_NAME, STATE_NAME
from agent.rundir.manifest import (
    FileEntry,
    Manifest,
    TensorEntry,
    encode_unsealed,
)
from agent.rundir.seal import seal

SMALL_STATE = {
    "model": {
        "weight": torch.arange(20.0),
        "empty": torch.empty(0),
        "half": torch.full((), 3, dtype=torch.bfloat16),
        "bias": torch.arange(20, 40.0),
    },
    "step": 3,
}
SMALL_TENSORS = (
    TensorEntry(
        name="model.weight",
        dtype="float32",
        shape=(20,),
        file=STATE_NAME,
        record="data/0",
    ),
    TensorEntry(
        name="model.empty",
        dtype="float32",
        shape=(0,),
        file=STATE_NAME,
        record="data/1",
    ),
    TensorEntry(
        name="model.half", dtype="bfloat16", shape=(), file=STATE_NAME, record="data/2"
    ),
    TensorEntry(
        name="model.bias",
        dtype="float32",
        shape=(20,),
        file=STATE_NAME,
        record="data/3",
    ),
)


def saved(state: Any, **options: Any) -> bytes:
    """Return what `torch.save` writes."""
    buffer = io.BytesIO()
    torch.save(state, buffer, **options)
    return buffer.getvalue()


def small_archive() -> bytes:
    return saved(SMALL_STATE)


@dataclass(frozen=True)
class Place:
    """Where the parts of one record lie in an archive."""

    name: str
    header: int
    content: int
    size: int
    entry: int
    """Of the directory."""

    @property
    def descriptor(self) -> int:
        return self.content + self.size


def places(data: bytes) -> list[Place]:
    """Find the parts of every record, as zipfile understands the archive."""
    archive = zipfile.ZipFile(io.BytesIO(data))
    entry, found = archive.start_dir, []
    for info in archive.infolist():
        lengths = struct.unpack_from("<HH", data, info.header_offset + 26)
        content = info.header_offset + 30 + sum(lengths)
        name = info.filename.partition("/")[2]
        found.append(Place(name, info.header_offset, content, info.file_size, entry))
        entry += 46 + len(info.filename.encode()) + len(info.extra)
    return found


def structural_bytes(data: bytes) -> list[int]:
    """Return the offsets of all bytes that are not content of a record."""
    content = {
        offset
        for place in places(data)
        for offset in range(place.content, place.descriptor)
    }
    return [offset for offset in range(len(data)) if offset not in content]


def contents(data: bytes) -> list[tuple[str, bytes]]:
    """Return name and content of each record."""
    archive = zipfile.ZipFile(io.BytesIO(data))
    return [(i.filename.partition("/")[2], archive.read(i)) for i in archive.infolist()]


def build(
    records: list[tuple[str, bytes]],
    *,
    root: str = "archive",
    alignment: int = 64,
    with_crc: bool = True,
    gaps: Mapping[str, bytes] = MappingProxyType({}),
) -> bytes:
    """Write an archive as torch does; content is taken as it is.

    Args:
        records: name and content of each.
        root: the folder.
        alignment: of contents.
        with_crc: False: as with `set_crc32_options(False)`.
        gaps: what to put before a record, or before the directory (""), that
            torch would not.
    """
    out, directory = bytearray(), bytearray()
    for name, content in records:
        out += gaps.get(name, b"")
        full = f"{root}/{name}".encode()
        crc = zlib.crc32(content) if with_crc else 0
        flags = 0x0808 if content else 0x0800
        offset = len(out)
        pad = -(offset + 30 + len(full) + 4) % alignment
        out += b"PK\3\4" + struct.pack("<5H3L", 0, flags, 0, 0, 0, 0, 0, 0)
        out += struct.pack("<HH", len(full), 4 + pad) + full
        out += b"FB" + struct.pack("<H", pad) + b"Z" * pad + content
        if content:
            out += b"PK\7\x08" + struct.pack("<3L", crc, len(content), len(content))
        directory += b"PK\1\2" + struct.pack("<6H", 0, 0, flags, 0, 0, 0)
        directory += struct.pack("<3L", crc, len(content), len(content))
        directory += struct.pack("<5H2L", len(full), 0, 0, 0, 0, 0, offset) + full
    out += gaps.get("", b"")
    end = end_of_archive(len(records), len(out), len(directory))
    return bytes(out) + bytes(directory) + end


def end_of_archive(count: int, offset: int, size: int) -> bytes:
    """Return the last 98 bytes of an archive with such a directory."""
    long = struct.pack("<QHHLL4Q", 44, 0x31E, 45, 0, 0, count, count, size, offset)
    locator = struct.pack("<LQL", 0, offset + size, 1)
    fits = [min(number, 0xFFFFFFFF) for number in (size, offset)]
    short = struct.pack("<4H2LH", 0, 0, count, count, *fits, 0)
    return b"PK\6\6" + long + b"PK\6\7" + locator + b"PK\5\6" + short


def sha256_digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def blake3_digest(data: bytes) -> str:
    return f"blake3:{blake3.blake3(data).hexdigest()}"


def write_checkpoint(
    directory: Path,
    files: dict[str, bytes],
    *,
    sealed: bool = True,
    digest_of: Callable[[bytes], str] = sha256_digest,
    **fields: Any,
) -> None:
    """Publish a checkpoint directory with these files."""
    directory.mkdir(parents=True)
    entries = []
    for name, data in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(data)
        entries.append(
            FileEntry(name=name, size_bytes=len(data), digest=digest_of(data))
        )
    settings = {
        "schema": 1,
        "run_id": "ddp-7",
        "attempt": 1,
        "created_ns": 1_790_000_000_000_000_000,
        "reason": "interval",
        "step": 1200,
        "files": tuple(entries),
        **fields,
    }
    manifest = Manifest(**settings)
    encoded = encode_unsealed(manifest)
    (directory / MANIFEST_NAME).write_bytes(seal(encoded) if sealed else encoded)


def write_small_checkpoint(
    directory: Path, *, sealed: bool = True, **fields: Any
) -> None:
    """Publish `SMALL_STATE`, tensors listed."""
    settings = {"tensors": SMALL_TENSORS, **fields}
    write_checkpoint(
        directory, {STATE_NAME: small_archive()}, sealed=sealed, **settings
    )
