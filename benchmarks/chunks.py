"""What the chunk store costs, beside the ChunkManager that the idea comes from.

Both store the same rounds in turn, on the same disk. The peer is a rewriting
of FederatedScope-Enhanced's ChunkManager from its behaviour (NumPy float32,
even flat split, pickle, SHA-256, SQLite as it comes, one commit per round);
`torch.save` with an fsync is shown beside it. Ours is durable when the call
returns; moving the log into the database goes on beside the caller and is
waited for, outside the measurement, before the next round. Both sides take
turns, and a ratio is the middle of those of all rounds, so that a busy machine
slows both. Beside the load stands what SHA-256 of the same bytes takes alone,
on all cores at once: the peer hashes nothing when it reads, so no checked load
can be below that.

    python benchmarks/chunks.py [--large] [--rounds 8] [--dir DIR]
"""

import argparse
import hashlib
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch import Tensor, nn

from agent.rundir.chunks.errors import DamagedChunkError
from agent.rundir.chunks.lanes import NUM_LANES
from agent.rundir.chunks.reader import ChunkStoreReader
from benchmarks.stores.pair import NUM_LAYERS, Pair, flipped, model_of
from benchmarks.table import Row, at_most, print_table
from trainer.chunks.chunk_manager import ChunkManager
from trainer.chunks.restore import load_tensors
from trainer.chunks.split import TensorSplit

ROOT = Path(__file__).resolve().parents[1]
SAVE_TARGETS = {"0.42M": 0.9, "25M": 0.4, "100M": 0.35}
LOAD_TARGETS = {"0.42M": 0.4, "25M": 0.3, "100M": 0.2}
LOADS = {"0.42M": 10, "25M": 3, "100M": 1}
"""How often a round is loaded after it was saved."""
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


def fsynced_torch_save(model: dict[str, Tensor], path: Path) -> None:
    with path.open("wb") as file:
        torch.save(model, file)
        file.flush()
        os.fsync(file.fileno())


class Taken(NamedTuple):
    """What one call took, in milliseconds."""

    wall_ms: float
    cpu_ms: float
    """Of all threads, in the kernel too."""


def compared(
    claim: str, ours: list[Taken], peer: list[Taken], limit: float | None
) -> Row:
    """A row of two times that were measured in turn, the smaller the better."""
    ratio = middle(a.wall_ms / b.wall_ms for a, b in zip(ours, peer, strict=True))
    target = "" if limit is None else f"≤ {limit:g} x"
    is_met = None if limit is None else ratio <= limit
    return Row(claim, said(ours), said(peer), f"{ratio:.2f} x", target, is_met)


def said(taken: list[Taken]) -> str:
    wall_ms, cpu_ms = middle(t.wall_ms for t in taken), middle(t.cpu_ms for t in taken)
    return f"{wall_ms:.1f} ms (processor {cpu_ms:.1f})"


def middle(values: Iterable[float]) -> float:
    return statistics.median(values)


class Clock:
    """What was done, by name, and what each time took."""

    def __init__(self) -> None:
        self.seen: dict[str, list[Taken]] = {}

    def time(self, key: str, call: Callable[..., object], *arguments: object) -> None:
        """Call and note how long it took."""
        cpu, start = time.process_time(), time.perf_counter()
        call(*arguments)
        wall_ms = (time.perf_counter() - start) * 1e3
        taken = Taken(wall_ms, (time.process_time() - cpu) * 1e3)
        self.seen.setdefault(key, []).append(taken)

    def together(self, first: str, second: str) -> list[Taken]:
        """What two things took that were always done one after the other."""
        pairs = zip(self.seen[first], self.seen[second], strict=True)
        return [Taken(a.wall_ms + b.wall_ms, a.cpu_ms + b.cpu_ms) for a, b in pairs]


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
        for _ in range(LOADS[label]):
            clock.time("load", ours.get_round, round_num)
            clock.time("peer load", peer.load, round_num, model)
            clock.time("layer", ours.get_round, round_num, "3.*")
            clock.time("opened layer", layer_of_opened, pair.path, round_num)
            clock.time("hash", hash_all, model)
    loaded = ours.get_round(rounds)
    assert all(torch.equal(loaded[name], model[name]) for name in model)
    yield from save_rows(label, clock)
    yield from load_rows(label, clock)
    if label != "0.42M":
        yield memory(label, pair, rounds)
    ours.close()


def save_rows(label: str, clock: Clock) -> Iterator[Row]:
    save, seen = f"save a round, {label}", clock.seen
    first = slice(0, KEEP_ROUNDS)
    rest = slice(KEEP_ROUNDS, None)
    yield compared(
        save, seen["save"][first], seen["peer save"][first], SAVE_TARGETS[label]
    )
    torch_save = seen["torch"][first]
    claim = f"{save}, beside torch.save + fsync"
    yield compared(claim, seen["save"][first], torch_save, None)
    both = clock.together("peer save", "peer clean up")[rest]
    claim = f"{save}, and drop the sixth"
    yield compared(claim, seen["save"][rest], both, SAVE_TARGETS[label])
    yield Row(f"{save}: log folded in, beside the caller", said(seen["fold"]), "")


def load_rows(label: str, clock: Clock) -> Iterator[Row]:
    seen, peer = clock.seen, clock.seen["peer load"]
    claim = f"load and check a round, {label}"
    yield compared(claim, seen["load"], peer, LOAD_TARGETS[label])
    claim = f"{claim}: SHA-256 alone, on all cores"
    yield compared(claim, seen["hash"], peer, None)
    if label == "25M":
        row = compared("load one layer of twelve, 25M", seen["layer"], peer, None)
        layer_ms = middle(taken.wall_ms for taken in seen["layer"])
        yield row._replace(**at_most(layer_ms, 5, "ms"))
        claim = "load one layer of twelve, 25M: store opened, layout read for it"
        yield compared(claim, seen["opened layer"], peer, None)


def layer_of_opened(path: Path, round_num: int) -> dict[str, Tensor]:
    """Load a layer as somebody does who has not had this store open before."""
    with ChunkStoreReader(path) as reader:
        return load_tensors(reader, round_num, "3.*")


def hash_all(model: dict[str, Tensor]) -> None:
    """Hash all bytes, as evenly on all cores as can be."""
    with ThreadPoolExecutor(NUM_LANES) as pool:
        views = [memoryview(tensor.numpy()).cast("B") for tensor in model.values()]
        for _ in pool.map(lambda view: hashlib.sha256(view).digest(), views):
            continue


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
    blocks = {str(i): torch.randn(4 << 20) for i in range(NUM_LANES)}
    num_bytes = sum(block.nbytes for block in blocks.values())
    start = time.perf_counter()
    hash_all(blocks)
    limit = num_bytes / (time.perf_counter() - start) / 1e9
    speed = statistics.median(ours)
    return Row(
        "verify a whole store, every SHA-256 (peer: hashlib alone, on all cores)",
        f"{speed:.2f} GB/s",
        f"{limit:.2f} GB/s",
        f"{speed / limit:.2f} x",
        "≥ 2 GB/s",
        speed >= 2,
    )


def toy(folder: Path) -> Iterator[Row]:
    """Linear regression, 11 parameters in 10 chunks, five rounds."""
    model, clock = nn.Linear(10, 1), Clock()
    with ChunkManager(1, folder) as kept:
        for round_num in range(1, 6):
            nn.init.normal_(model.weight)
            kept.save_model_chunks(model, round_num)
            clock.time("restore", kept.reconstruct_model_from_chunks, round_num, model)
        num_chunks, path = kept.get_storage_stats().num_unique_chunks, kept.store.path
    restore_ms = middle(taken.wall_ms for taken in clock.seen["restore"])
    row = Row("restore a toy of 11 parameters", f"{restore_ms:.1f} ms", "")
    yield row._replace(**at_most(restore_ms, 100, "ms"))
    size = f"{num_chunks} chunks, {path.stat().st_size / 1024:.0f} KiB"
    yield Row("five rounds of it on disk", size, "")


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
        rows += toy(Path(folder) / "toy")
        rows.append(flips(Path(folder) / "flips"))
    return print_table(rows)


if __name__ == "__main__":
    sys.exit(main())
