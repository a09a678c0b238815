"""Checkpoints with a manifest, written by hand for those who only read them."""

from pathlib import Path

import torch

from agent.rundir.layout import MANIFEST_NAME, STATE_NAME
from agent.rundir.manifest import FileEntry, Manifest, encode_manifest
from trainer.checkpoint.describe import describe_tensors


def publish(path: Path, state: dict, *, crc32: bool = True) -> Path:
    """Write a checkpoint whose manifest names no true digest; return `path`."""
    path.mkdir(parents=True)
    torch.save(state, path / STATE_NAME)
    size = (path / STATE_NAME).stat().st_size
    manifest = Manifest(
        schema=1,
        run_id="cafe",
        attempt=1,
        created_ns=1,
        reason="interval",
        files=(FileEntry(name=STATE_NAME, size_bytes=size, digest="blake3:00"),),
        tensors=describe_tensors(state, STATE_NAME),
        crc32=crc32,
    )
    (path / MANIFEST_NAME).write_bytes(encode_manifest(manifest))
    return path
