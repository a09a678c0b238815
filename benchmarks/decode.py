"""Reading telemetry: lines into events, and a million losses into a curve.

The log that is read is what the agent writes for steps with one barrier and a
beat now and then. The least time of several rounds is compared: decoding waits
for nothing, whatever is above the least is other people's work.

    python benchmarks/decode.py [--scalars 1000000] [--rounds 5]
"""

import argparse
import importlib.util
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from agent.rundir.events import Event, Heartbeat, StepDone, Wait, decode_lines, encode
from agent.rundir.tail import Tail
from benchmarks.table import Row, print_table, times

NUM_EVENTS = 20_000
PEER_SCALARS = 20
"""Peers get one in so many scalars; their time for all is told by the record."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scalars", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = [decoding(options.rounds)]
        rows += loading(Path(folder), options.scalars, options.rounds)
    return print_table(rows)


def decoding(num_rounds: int) -> Row:
    """Compare with `json.loads` on the same lines, in pieces as a tail reads them."""
    lines = [encode(event) for event in made_up_events(NUM_EVENTS)]
    pieces = [b"".join(lines[at : at + 400]) for at in range(0, len(lines), 400)]

    def ours_all() -> None:
        for piece in pieces:
            decode_lines(piece)

    def peer_all() -> None:
        for piece in pieces:
            [json.loads(line) for line in piece.splitlines()]

    ours, peer = least_s(num_rounds * 12, ours_all, peer_all)
    return Row(
        f"decode an event of {len(b''.join(lines)) // len(lines)} bytes",
        f"typed, checked: {ours / NUM_EVENTS * 1e6:.2f} µs",
        f"json.loads: {peer / NUM_EVENTS * 1e6:.2f} µs",
        **times(ours, peer, least=8),
    )


def loading(folder: Path, num_scalars: int, num_rounds: int) -> Iterator[Row]:
    """Compare with the peers' own readers on the peers' own files."""
    log = folder / "rank-00000.jsonl"
    with log.open("wb") as file:
        for step in range(num_scalars):
            clocks = {"time_ns": time.time_ns(), "mono_ns": time.monotonic_ns()}
            event = StepDone(seq=step, step=step, loss=0.5, node="rank-0", **clocks)
            file.write(encode(event))
    [ours] = least_s(num_rounds, lambda: read_losses(log))
    num_peer = num_scalars // PEER_SCALARS
    for name, module, make, least in (
        ("TensorBoard, EventAccumulator", "tensorboard", tensorboard, 8),
        ("W&B, scan of `.wandb`", "wandb", wandb_scan, 4),
    ):
        if importlib.util.find_spec(module) is None:
            print(f"not measured, it is not installed: {name}")
            continue
        [sample_s] = least_s(max(1, num_rounds // 2), make(folder, num_peer))
        peer = sample_s * PEER_SCALARS
        yield Row(
            f"load {num_scalars:,} losses",
            f"Tail and decode_lines: {ours:.2f} s",
            f"{name}: {peer:.1f} s",
            **times(ours, peer, least=least),
        )


def read_losses(log: Path) -> list[tuple[int | None, float | None]]:
    tail, found = Tail(log), []
    while data := tail.read():
        events = decode_lines(data)
        found += [(e.step, e.loss) for e in events if isinstance(e, StepDone)]
    return found


def tensorboard(folder: Path, num_scalars: int) -> Callable[[], object]:
    from tensorboard.backend.event_processing import event_accumulator as reader  # noqa: PLC0415 - a peer that may be missing
    from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415 - likewise

    with SummaryWriter(str(folder / "tensorboard")) as writer:
        for step in range(num_scalars):
            writer.add_scalar("loss", 0.5, step)

    def load() -> None:
        events = reader.EventAccumulator(
            str(folder / "tensorboard"), size_guidance={reader.SCALARS: 0}
        )
        events.Reload()
        assert len(events.Scalars("loss")) == num_scalars

    return load


def wandb_scan(folder: Path, num_scalars: int) -> Callable[[], object]:
    os.environ |= {"WANDB_MODE": "offline", "WANDB_SILENT": "true"}
    import wandb  # noqa: PLC0415 - a peer that may be missing
    from wandb.proto import wandb_internal_pb2  # noqa: PLC0415 - likewise

    run = wandb.init(project="bench", dir=str(folder))
    for step in range(num_scalars):
        run.log({"loss": 0.5}, step=step)
    run.finish()
    [path] = folder.glob("wandb/offline-run-*/*.wandb")

    def load() -> None:
        losses = []
        for data in leveldb_records(path.read_bytes()):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            losses += [
                json.loads(item.value_json)
                for item in record.history.item
                if (item.key or item.nested_key[0]) == "loss"
            ]
        assert len(losses) == num_scalars

    return load


def leveldb_records(data: bytes) -> Iterator[bytes]:
    """Yield the records of a `.wandb` file, without checking their CRC.

    The Python reader that W&B had is gone; its own is a Go program. Source: the
    log format of LevelDB, after a file header of seven bytes.
    """
    block_bytes, head_bytes, full, last = 32 << 10, 7, 1, 4
    at, parts = head_bytes, []
    while at < len(data):
        if block_bytes - at % block_bytes < head_bytes:
            at += block_bytes - at % block_bytes
            continue
        size, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        parts.append(data[at + head_bytes : at + head_bytes + size])
        at += head_bytes + size
        if kind in (full, last):
            yield b"".join(parts)
            parts = []


def least_s(num_rounds: int, *works: Callable[[], object]) -> list[float]:
    """Return the least time of each, in turns, in seconds."""
    least = [float("inf")] * len(works)
    for _ in range(num_rounds):
        for index, work in enumerate(works):
            began = time.perf_counter()
            work()
            least[index] = min(least[index], time.perf_counter() - began)
    return least


def made_up_events(num: int) -> Iterator[Event]:
    rng = random.Random(1)
    for seq in range(num):
        common = {
            "time_ns": 1_790_000_000_000_000_000 + seq * 10**8,
            "mono_ns": 1_774_219_738_944 + seq * 10**8,
            "node": "rank-3",
            "rank": 3,
            "seq": seq,
            "step": seq,
        }
        if seq % 10 == 9:
            beat = {"phase": "training", "phase_age_ns": seq, "progress": seq}
            yield Heartbeat(**beat, **common)
            continue
        wait = Wait("step.agree", seq, 1_774_219_738_944 + seq, rng.randrange(10**7))
        yield StepDone(
            loss=rng.random(),
            lr=3e-4,
            grad_norm=rng.random(),
            num_tokens=4096,
            step_ns=43_000_000 + rng.randrange(10**6),
            data_ns=rng.randrange(10**5),
            agent_ns=rng.randrange(10**4),
            waits=(wait,),
            **common,
        )


if __name__ == "__main__":
    sys.exit(main())
