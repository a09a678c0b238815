"""Things that go wrong with a chunk store, by name, and tensors to put in."""

import ctypes
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from agent.rundir.layout import RunDir


def store_path(run_dir: Path, node: str = "server") -> Path:
    return RunDir(run_dir).chunk_store(node)


def small_model(seed: int = 0) -> dict[str, Tensor]:
    """A few tensors of the kinds that models have."""
    generator = torch.Generator().manual_seed(seed)
    return {
        "conv.weight": torch.randn(8, 3, 3, 3, generator=generator),
        "conv.bias": torch.randn(8, generator=generator),
        "bn.running_mean": torch.randn(8, generator=generator),
        "bn.num_batches_tracked": torch.tensor(seed + 2**53 + 1),
        "fc.weight": torch.randn(300, 200, generator=generator).to(torch.bfloat16),
        "empty": torch.empty(0, 4),
    }


def raw_bytes(tensor: Tensor) -> bytes:
    """The bytes of a tensor in row-major order, made without our own code."""
    if not tensor.is_contiguous():
        tensor = tensor.contiguous()
    num_bytes = tensor.numel() * tensor.element_size()
    return ctypes.string_at(tensor.data_ptr(), num_bytes) if num_bytes else b""


def same_tensors(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    """Whether names, dtypes, shapes and bits are equal."""
    return list(left) == list(right) and all(
        a.dtype == b.dtype and a.shape == b.shape and raw_bytes(a) == raw_bytes(b)
        for a, b in zip(left.values(), right.values(), strict=True)
    )


@contextmanager
def editing(path: Path) -> Iterator[sqlite3.Connection]:
    """Change a store behind its back, for good."""
    conn = sqlite3.connect(path, isolation_level=None)
    try:
        yield conn
        conn.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    finally:
        conn.close()


def flip_bit(path: Path, digest: str, byte: int = 0, bit: int = 0) -> None:
    """Flip one bit of a chunk's bytes; SQLite does not notice."""
    with editing(path) as conn:
        (data,) = conn.execute(
            "SELECT data FROM chunk_data WHERE chunk_hash = ?", (digest,)
        ).fetchone()
        damaged = bytearray(data)
        damaged[byte] ^= 1 << bit
        conn.execute(
            "UPDATE chunk_data SET data = ? WHERE chunk_hash = ?",
            (bytes(damaged), digest),
        )


def lose_chunk(path: Path, digest: str) -> None:
    """Delete a chunk's bytes but not the rows that name it."""
    with editing(path) as conn:
        conn.execute("DELETE FROM chunk_data WHERE chunk_hash = ?", (digest,))


def damage_index(path: Path, digest: str) -> None:
    """Change a digest in the index that tells whether a chunk is still needed."""
    with editing(path) as conn:
        (root,) = conn.execute(
            "SELECT rootpage FROM sqlite_master WHERE name = 'idx_chunk_metadata_hash'"
        ).fetchone()
    data = bytearray(path.read_bytes())
    at = data.index(digest.encode(), (root - 1) * 65536, root * 65536)
    data[at : at + 4] = b"0000"
    path.write_bytes(data)


def break_chain(path: Path, content: bytes, pointer: bytes) -> None:
    """Lead the chain of pages that holds this content somewhere else."""
    data = bytearray(path.read_bytes())
    at = data.index(content)
    page = at // 65536 * 65536
    data[page : page + 4] = pointer
    path.write_bytes(data)
