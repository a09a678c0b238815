"""What the original ChunkManager does, written anew from its behaviour.

FederatedScope-Enhanced: parameters and buffers as NumPy arrays in the order of
their names, cut evenly over a flat index, each chunk concatenated, pickled,
hashed and inserted into SQLite with its default settings. For tests that read
its databases and benchmarks that compare with it.
"""

import contextlib
import hashlib
import json
import pickle
import sqlite3
from pathlib import Path

import numpy as np
from torch import Tensor

_TABLES = """
CREATE TABLE IF NOT EXISTS chunk_metadata (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    round_num INTEGER NOT NULL,
    chunk_id INTEGER NOT NULL,
    chunk_hash TEXT NOT NULL,
    parts_info TEXT NOT NULL,
    flat_size INTEGER NOT NULL,
    created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
    UNIQUE (round_num, chunk_id)
);
CREATE TABLE IF NOT EXISTS chunk_data (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    chunk_hash TEXT UNIQUE NOT NULL,
    data BLOB NOT NULL,
    created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP
);
CREATE INDEX IF NOT EXISTS idx_chunk_metadata_round ON chunk_metadata (round_num);
CREATE INDEX IF NOT EXISTS idx_chunk_metadata_hash ON chunk_metadata (chunk_hash);
"""


class OriginalStore:
    """One database as the original writes it."""

    def __init__(self, path: Path, protocol: int | None = None) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self.protocol = protocol
        with self._connected() as conn:
            conn.executescript(_TABLES)

    def save(
        self, tensors: dict[str, Tensor], round_num: int, num_chunks: int = 10
    ) -> None:
        arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
        with self._connected() as conn:
            for chunk_id, parts in enumerate(split(arrays, num_chunks)):
                pieces = [
                    arrays[name].flatten()[start:end]
                    for name, ranges in parts.items()
                    for start, end, _ in ranges
                ]
                flat = np.concatenate(pieces)
                data = pickle.dumps(flat, protocol=self.protocol)
                digest = hashlib.sha256(data).hexdigest()
                conn.execute(
                    "INSERT OR IGNORE INTO chunk_data (chunk_hash, data) VALUES (?, ?)",
                    (digest, data),
                )
                conn.execute(
                    "INSERT OR REPLACE INTO chunk_metadata (round_num, chunk_id, "
                    "chunk_hash, parts_info, flat_size) VALUES (?, ?, ?, ?, ?)",
                    (round_num, chunk_id, digest, json.dumps(parts), flat.size),
                )

    def load(self, round_num: int, like: dict[str, Tensor]) -> dict[str, np.ndarray]:
        with self._connected() as conn:
            rows = conn.execute(
                "SELECT chunk_hash, parts_info FROM chunk_metadata "
                "WHERE round_num = ? ORDER BY chunk_id",
                (round_num,),
            ).fetchall()
            chunks = []
            for digest, parts in rows:
                row = conn.execute(
                    "SELECT data FROM chunk_data WHERE chunk_hash = ?", (digest,)
                ).fetchone()
                if row:
                    chunks.append((json.loads(parts), pickle.loads(row[0])))
        arrays = {name: np.zeros_like(t.numpy()) for name, t in like.items()}
        for parts, flat in chunks:
            at = 0
            for name, ranges in parts.items():
                for start, end, _ in ranges:
                    piece = flat[at : at + end - start]
                    arrays[name].reshape(-1)[start:end] = piece
                    at += end - start
        return arrays

    def clean_up(self, keep_rounds: int) -> None:
        with self._connected() as conn:
            conn.execute(
                "DELETE FROM chunk_metadata WHERE round_num < "
                "(SELECT max(round_num) FROM chunk_metadata) - ? + 1",
                (keep_rounds,),
            )
            conn.execute(
                "DELETE FROM chunk_data WHERE chunk_hash NOT IN "
                "(SELECT DISTINCT chunk_hash FROM chunk_metadata)"
            )

    @contextlib.contextmanager
    def _connected(self):
        conn = sqlite3.connect(self.path)
        try:
            with conn:
                yield conn
        finally:
            conn.close()


def split(arrays: dict[str, np.ndarray], num_chunks: int) -> list[dict[str, list]]:
    """Parts of each chunk: `{name: [(start, end, shape)]}`."""
    per_chunk = sum(array.size for array in arrays.values()) // num_chunks
    chunks: list[dict[str, list]] = [{}]
    size = 0
    for name in sorted(arrays):
        at = 0
        while at < arrays[name].size:
            is_last = len(chunks) == num_chunks
            if size >= per_chunk and not is_last:
                chunks.append({})
                size = 0
                is_last = len(chunks) == num_chunks
            left = arrays[name].size - at
            take = left if is_last else min(per_chunk - size, left)
            part = (at, at + take, arrays[name].shape)
            chunks[-1].setdefault(name, []).append(part)
            size += take
            at += take
    return chunks
