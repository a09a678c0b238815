"""What the chunk store costs, beside the ChunkManager that the idea comes from.

Both store the same rounds in turn, on the same disk. The peer is a rewriting
of FederatedScope-Enhanced's ChunkManager from its behaviour (NumPy float32,
even flat split, pickle, SHA-256, SQLite as it comes, one commit per round);
`torch.save` with an fsync is shown beside it. Ours is durable when the call
returns; moving the log into the database goes on beside the caller and is
waited for, outside the measurement, before the next round.

    python benchmarks/chunks.py [--large] [--rounds 8] [--dir DIR]
"""

import argparse
import hashlib
import os
import random
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch import Tensor

from agent.rundir.chunks.errors import DamagedChunkError
from agent.rundir.chunks.reader import ChunkStoreReader
from agent.rundir.layout import RunDir
from benchmarks.table import Row, at_most, print_table
from tests.trainer.chunks.original import OriginalStore
from trainer.chunks.split import TensorSplit
from trainer.chunks.store import ChunkStore

ROOT = Path(__file__).resolve().parents[1]
NUM_LAYERS = 12
SAVE_TARGETS = {"0.42M": 0.9, "25M": 0.4, "100M": 0.35}
LOAD_TARGETS = {"0.42M": 0.4, "25M": 0.3, "100M": 0.2}
SIZES = {"0.42M": 420_000, "25M": 25_000_000, "100M": 100_000_000}
NUM_FLIPS = 200
KEEP_ROUNDS = 5

MEMORY = """
import re, sys
from pathlib import Path
import torch
from agent.rundir.chunks.reader import ChunkStoreReader
from tests.trainer.chunks.original import OriginalStore
from trainer.chunks.restore import load_tensors

def peak():
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", status)[1]) * 1024

side, path, count = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
like = {}
if side == "peer":  # it fills arrays that are there
    like = {f"{i}.weight": torch.zeros(count // 12) for i in range(12)}
before = peak()
if side == "ours":
    with ChunkStoreReader(path) as reader:
        kept = load_tensors(reader, reader.rounds()[-1].round_num)
else:
    loaded = OriginalStore(path).load(int(sys.argv[4]), like)
    kept = {name: torch.from_numpy(array) for name, array in loaded.items()}
print(peak() - before)
"""


def model_of(count: int, seed: int) -> dict[str, Tensor]:
    """`NUM_LAYERS` equal tensors with `count` elements together."""
    generator = torch.Generator().manual_seed(seed)
    return {
        f"{i}.weight": torch.randn(count // NUM_LAYERS, generator=generator)
        for i in range(NUM_LAYERS)
    }


def fsynced_torch_save(model: dict[str, Tensor], path: Path) -> None:
    with path.open("wb") as file:
        torch.save(model, file)
        file.flush()
        os.fsync(file.fileno())


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


def compared(claim: str, ours: float, peer: float, limit: float | None) -> Row:
    """A row of two times in milliseconds, the smaller the better."""
    ratio = ours / peer
    target = "" if limit is None else f"≤ {limit:g} x"
    is_met = None if limit is None else ratio <= limit
    return Row(
        claim, f"{ours:.1f} ms", f"{peer:.1f} ms", f"{ratio:.2f} x", target, is_met
    )


class Clock:
    """Times by what was done, in milliseconds."""

    def __init__(self) -> None:
        self.seen: dict[str, list[float]] = {}

    def time(self, key: str, call: Callable[..., object], *arguments: object) -> float:
        """Call and note how long it took."""
        start = time.perf_counter()
        call(*arguments)
        elapsed_ms = (time.perf_counter() - start) * 1e3
        self.seen.setdefault(key, []).append(elapsed_ms)
        return elapsed_ms

    def median(self, key: str, skip: int = 0) -> float:
        """The middle of what was noted, the first few left out."""
        return statistics.median(self.seen[key][skip:])


def save_and_load(label: str, rounds: int, folder: Path) -> Iterator[Row]:
    pair, clock = Pair(folder), Clock()
    ours, peer = pair.ours, pair.peer
    for round_num in range(1, rounds + 1):
        model = model_of(SIZES[label], round_num)
        clock.time("save", ours.put_round, round_num, model)
        clock.time("fold", ours.settle)
        clock.time("peer save", peer.save, model, round_num)
        clock.time("peer clean up", peer.clean_up, KEEP_ROUNDS)
        clock.time("torch", fsynced_torch_save, model, folder / "x.pt")
        clock.time("load", ours.get_round, round_num)
        clock.time("peer load", peer.load, round_num, model)
        clock.time("layer", ours.get_round, round_num, "3.*")
    loaded = ours.get_round(rounds)
    assert all(torch.equal(loaded[name], model[name]) for name in model)
    yield from save_rows(label, clock)
    load, peer_load = clock.median("load"), clock.median("peer load")
    claim = f"load and check a round, {label}"
    yield compared(claim, load, peer_load, LOAD_TARGETS[label])
    if label == "25M":
        layer = clock.median("layer")
        row = compared("load one layer of twelve, 25M", layer, peer_load, None)
        yield row._replace(**at_most(layer, 5, "ms"))
    if label != "0.42M":
        yield memory(label, pair, rounds)
    ours.close()


def save_rows(label: str, clock: Clock) -> Iterator[Row]:
    save = f"save a round, {label}"
    ours = clock.median("save")
    yield compared(save, ours, clock.median("peer save"), SAVE_TARGETS[label])
    yield compared(
        f"{save}, beside torch.save + fsync", ours, clock.median("torch"), None
    )
    kept = clock.median("save", KEEP_ROUNDS)
    peer = clock.median("peer save", KEEP_ROUNDS)
    peer += clock.median("peer clean up", KEEP_ROUNDS)
    yield compared(f"{save}, and drop the sixth", kept, peer, None)
    fold = f"{clock.median('fold'):.1f} ms"
    yield Row(f"{save}: log folded in, beside the caller", fold, "")


def memory(label: str, pair: Pair, last_round: int) -> Row:
    count = SIZES[label]
    ratios = []
    for side, path in (("ours", pair.path), ("peer", pair.peer.path)):
        arguments = [side, str(path), str(count), str(last_round)]
        done = subprocess.run(
            [sys.executable, "-c", MEMORY, *arguments],
            capture_output=True,
            text=True,
            check=True,
            cwd=ROOT,
        )
        ratios.append(int(done.stdout) / (count * 4))
    claim = f"memory to load a round, {label}"
    return sized(claim, (ratios[0], ratios[1]), "models", 1.2)


def sized(
    claim: str, sizes: tuple[float, float], unit: str, limit: float | None
) -> Row:
    ours, peer = sizes
    row = Row(claim, f"{ours:.3f} {unit}", f"{peer:.3f} {unit}", f"{ours / peer:.2f} x")
    return row if limit is None else row._replace(**at_most(ours, limit, unit))


def disk(folder: Path) -> Iterator[Row]:
    count = SIZES["25M"]
    payload = 5 * (count // NUM_LAYERS * NUM_LAYERS * 4)
    pair = Pair(folder / "all")
    for round_num in range(1, 6):
        pair.put(round_num, model_of(count, round_num))
    ours, peer = pair.file_bytes()
    claim = "disk, five rounds of 25M, all weights change"
    yield sized(claim, (ours / payload, peer / payload), "x payload", 1.03)
    yield verified(pair)
    pair.ours.prune(1)
    pair.peer.clean_up(1)
    ours, peer = pair.file_bytes()
    live = payload / 5
    claim = "file after keeping one round of five"
    yield sized(claim, (ours / live, peer / live), "x live bytes", 1.1)
    pair.ours.close()


def frozen(folder: Path) -> Iterator[Row]:
    """Five rounds of which a tenth trains: ideal 1.4 models."""
    layouts: dict[str, tuple[Callable[[dict[str, Tensor]], None], float | None]] = {
        "90 % frozen in one piece": (train_last, 1.45),
        "10 % of every layer trains, as tensors of its own": (train_adapters, 1.5),
        "10 % of every tensor trains, its first rows": (train_rows, None),
    }
    for number, (claim, (train, limit)) in enumerate(layouts.items()):
        model = layered_model()
        model_bytes = sum(tensor.nbytes for tensor in model.values())
        pair = Pair(folder / str(number))
        for round_num in range(1, 6):
            train(model)
            pair.put(round_num, model)
        ours, peer = pair.file_bytes()
        sizes = ours / model_bytes, peer / model_bytes
        yield sized(f"disk, five rounds, {claim}", sizes, "models", limit)
        pair.ours.close()


def layered_model() -> dict[str, Tensor]:
    """25M elements in twelve layers; a tenth of each is a tensor of its own."""
    model = {}
    for i in range(NUM_LAYERS):
        model[f"{i:02}.weight"] = torch.randn(1_875_000)
        model[f"{i:02}.adapter"] = torch.randn(208_333)
    return model


def train_last(model: dict[str, Tensor]) -> None:
    flat = model["11.weight"]
    flat[:] = torch.randn_like(flat)
    model["11.adapter"][:] = torch.randn_like(model["11.adapter"])
    model["10.adapter"][:] = torch.randn_like(model["10.adapter"])


def train_adapters(model: dict[str, Tensor]) -> None:
    for name, tensor in model.items():
        if name.endswith("adapter"):
            tensor[:] = torch.randn_like(tensor)


def train_rows(model: dict[str, Tensor]) -> None:
    for tensor in model.values():
        rows = tensor[: tensor.numel() // 10]
        rows[:] = torch.randn_like(rows)


def verified(pair: Pair) -> Row:
    with ChunkStoreReader(pair.path) as reader:
        ours = []
        for _ in range(3):
            start = time.perf_counter()
            report = reader.verify()
            ours.append(report.num_bytes / (time.perf_counter() - start) / 1e9)
            assert report.is_sound
    block = os.urandom(64 << 20)
    start = time.perf_counter()
    hashlib.sha256(block).digest()
    limit = len(block) / (time.perf_counter() - start) / 1e9
    speed = statistics.median(ours)
    return Row(
        "verify a whole store, every SHA-256 (peer: hashlib, one thread)",
        f"{speed:.2f} GB/s",
        f"{limit:.2f} GB/s",
        f"{speed / limit:.2f} x",
        "≥ 2 GB/s",
        speed >= 2,
    )


def flips(folder: Path) -> Row:
    """Flip bits in tensor data: who loads something else without a word?"""
    pair = Pair(folder)
    model = model_of(120_000, 0)
    pair.ours.put_round(1, model, split=TensorSplit(16_384))
    pair.peer.save(model, 1)
    pair.ours.close()
    chance = random.Random(0)
    seen = [0, 0]
    for _ in range(NUM_FLIPS):
        with flipped(pair.path, chance), ChunkStoreReader(pair.path) as reader:
            seen[0] += bool(reader.verify().findings)
        with flipped(pair.peer.path, chance):
            seen[1] += has_noticed(lambda: pair.peer.load(1, model))
    return Row(
        "flipped bits in tensor data that are noticed on reading",
        f"{seen[0]} of {NUM_FLIPS}",
        f"{seen[1]} of {NUM_FLIPS}",
        target="all",
        is_met=seen[0] == NUM_FLIPS,
    )


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


def has_noticed(call: Callable[[], object]) -> bool:
    try:
        call()
    except (DamagedChunkError, ValueError, EOFError):
        return True
    return False


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--large", action="store_true", help="100M parameters too")
    parser.add_argument("--rounds", type=int, default=8, help="at least 6")
    parser.add_argument("--dir", type=Path, help="on the disk to be measured")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[Row] = []
    labels = ["0.42M", "25M", *(["100M"] if options.large else [])]
    for label in labels:
        with tempfile.TemporaryDirectory(dir=options.dir) as folder:
            rows += save_and_load(label, max(6, options.rounds), Path(folder))
    with tempfile.TemporaryDirectory(dir=options.dir) as folder:
        rows += disk(Path(folder))
        rows += frozen(Path(folder))
        rows.append(flips(Path(folder) / "flips"))
    return print_table(rows)


if __name__ == "__main__":
    sys.exit(main())
