"""Our store and the original's, side by side, and bits to flip in them."""

import random
import sqlite3
from pathlib import Path

import torch
from torch import Tensor

from agent.rundir.layout import RunDir
from tests.trainer.chunks.original import OriginalStore
from trainer.chunks.store import ChunkStore

NUM_LAYERS = 12


def model_of(count: int, seed: int) -> dict[str, Tensor]:
    """`NUM_LAYERS` equal tensors with `count` elements together."""
    generator = torch.Generator().manual_seed(seed)
    return {
        f"{i}.weight": torch.randn(count // NUM_LAYERS, generator=generator)
        for i in range(NUM_LAYERS)
    }


class Pair:
    """Both stores, side by side in one folder."""

    def __init__(self, folder: Path) -> None:
        self.path = RunDir(folder).chunk_store("server")
        self.ours = ChunkStore.open(self.path)
        self.peer = OriginalStore(folder / "peer.db")

    def put(self, round_num: int, model: dict[str, Tensor]) -> None:
        """Store a round in both."""
        self.ours.put_round(round_num, model)
        self.peer.save(model, round_num)

    def file_bytes(self) -> tuple[int, int]:
        """Both files, ours without a log."""
        self.ours.close()
        self.ours = ChunkStore.open(self.path)
        return self.path.stat().st_size, self.peer.path.stat().st_size


class flipped:  # noqa: N801 - used like a function
    """One bit of one blob is flipped while the block runs."""

    def __init__(self, path: Path, chance: random.Random) -> None:
        self.path, self.chance = path, chance

    def __enter__(self) -> None:
        with sqlite3.connect(self.path) as conn:
            rows = conn.execute("SELECT rowid, data FROM chunk_data").fetchall()
            self.rowid, self.data = self.chance.choice(rows)
            damaged = bytearray(self.data)
            # The first 200 bytes of the peer's are the pickle around the array.
            at = self.chance.randrange(200, len(damaged) - 8)
            damaged[at] ^= 1 << self.chance.randrange(8)
            self._write(conn, bytes(damaged))
        conn.close()

    def __exit__(self, *_: object) -> None:
        with sqlite3.connect(self.path) as conn:
            self._write(conn, self.data)
        conn.close()

    def _write(self, conn: sqlite3.Connection, data: bytes) -> None:
        query = "UPDATE chunk_data SET data = ? WHERE rowid = ?"
        conn.execute(query, (data, self.rowid))
