"""Saving 500 MB so that it is durable, hashed and whole, beside plain `torch.save`.

Both sides write the same state into the same folder in turns and wait for the
disk, so that a busy machine slows both; what is left of the other is unlinked
before, outside the measurement. Ours is the code that training runs: partial
directory, BLAKE3 on the way, manifest, one rename, every directory synced.
Reading the checkpoint back is timed apart: the peers never do it.

    python benchmarks/save.py [--megabytes 500] [--rounds 7] [--dir DIR]
"""

import argparse
import hashlib
import os
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from agent.rundir.layout import STATE_NAME, RunDir, checkpoint_name
from agent.rundir.manifest import MANIFEST_SCHEMA, Manifest
from benchmarks.table import Row, print_table
from trainer.checkpoint.describe import describe_tensors
from trainer.checkpoint.publish import Publisher

NUM_TENSORS = 150
"""As many as a model of 12 blocks has."""
PLAIN, REREAD = "torch.save, fsync, rename", "the same and SHA-256 of it"
PLAIN_LIMIT, REREAD_LIMIT = 1.1, 0.7
PARTS = {
    "serialize_ns": "serialized",
    "write_ns": "written",
    "digest_ns": "waited for the digest",
    "fsync_ns": "waited for the disk",
    "publish_ns": "manifest and rename",
    "verify_ns": "read back from the disk",
}
"""Of a save, as its event tells them, and what they are called here."""
"""Of the two events that a publisher tells the dashboard."""

State = dict[str, Any]
Times = dict[str, list[float]]


class Ours:
    """One run, and how long the parts of its last save took."""

    def __init__(self, folder: Path, state: State) -> None:
        self.run = RunDir(folder / "run")
        self.state = state
        self.parts_s: dict[str, float] = {}
        self.tensors = describe_tensors(state, STATE_NAME)

    def tell(self, _event_type: type, /, **fields: object) -> None:
        """Keep what an event says of times."""
        for name in PARTS:
            if name in fields:
                self.parts_s[name] = float(str(fields[name])) / 1e9

    def save(self, step: int) -> float:
        """Publish; return the seconds until the rename was durable."""
        began = time.perf_counter()
        facts = Manifest(
            schema=MANIFEST_SCHEMA,
            run_id="benchmark",
            attempt=1,
            created_ns=time.time_ns(),
            reason="interval",
            step=step,
            files=(),
            tensors=self.tensors,
        )
        publisher = Publisher(self.run, self.tell)
        outcome = publisher.publish(checkpoint_name(step), self.state, facts)
        elapsed_s = time.perf_counter() - began
        assert outcome.refusal is None, outcome
        return elapsed_s - self.parts_s["verify_ns"]

    def clear(self) -> None:
        """Make room for the next round."""
        shutil.rmtree(self.run.checkpoints)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--dir", type=Path, default=None, help="on the disk to test")
    options = parser.parse_args()
    state = state_of(options.megabytes << 20)
    with tempfile.TemporaryDirectory(dir=options.dir) as folder:
        times = measure(Path(folder), state, options.rounds)
    return print_table(rows(times, options.megabytes))


def state_of(num_bytes: int) -> State:
    numel = num_bytes // NUM_TENSORS // 4
    model = {f"blocks.{i}.weight": torch.randn(numel) for i in range(NUM_TENSORS)}
    return {"model": model, "step": 1}


def measure(folder: Path, state: State, num_rounds: int) -> Times:
    """Return seconds by what was done; a first round warms up and is dropped."""
    ours = Ours(folder, state)
    path = folder / "peer.pt"
    times: Times = {name: [] for name in ("ours", PLAIN, REREAD, *PARTS)}
    for step in range(num_rounds + 1):
        os.sync()  # what earlier rounds have left the disk to do
        seen = {"ours": ours.save(step), **ours.parts_s}
        ours.clear()
        os.sync()
        seen[PLAIN], seen[REREAD] = save_as_a_peer(path, state)
        path.unlink()
        for name, seconds in seen.items() if step else ():
            times[name].append(seconds)
    return times


def save_as_a_peer(path: Path, state: State) -> tuple[float, float]:
    """Return the seconds until the file has its name, and until it is hashed too."""
    began = time.perf_counter()
    partial = path.with_suffix(".tmp")
    torch.save(state, partial)  # by path: torch writes without Python in between
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    partial.rename(path)
    saved = time.perf_counter()
    with path.open("rb") as file:
        hashlib.file_digest(file, "sha256")
    return saved - began, time.perf_counter() - began


def rows(times: Times, megabytes: int) -> list[Row]:
    claim = f"save {megabytes} MB, durable, whole and hashed"
    found = [
        compared(claim, times, PLAIN, PLAIN_LIMIT),
        compared(claim, times, REREAD, REREAD_LIMIT),
    ]
    whole = middle(times["ours"]) + middle(times["verify_ns"])
    for name, label in PARTS.items():
        claim = label if name == "verify_ns" else f"of that: {label}"
        found.append(Row(claim, milliseconds(times[name]), "-"))
    found.append(Row("save and read back", f"{1e3 * whole:.0f} ms", "-"))
    return found


def compared(claim: str, times: Times, peer: str, limit: float) -> Row:
    """One row; the ratio is the middle of those of the rounds."""
    pairs = zip(times["ours"], times[peer], strict=True)
    ratio = middle([ours / theirs for ours, theirs in pairs])
    return Row(
        claim,
        milliseconds(times["ours"]),
        f"{peer} {milliseconds(times[peer])}",
        f"{ratio:.2f} x",
        f"≤ {limit:g} x",
        ratio <= limit,
    )


def milliseconds(seconds: list[float]) -> str:
    return f"{1e3 * middle(seconds):.0f} ms"


middle = statistics.median


if __name__ == "__main__":
    sys.exit(main())
