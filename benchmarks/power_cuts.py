"""What is left after the power was cut, ours beside what people write by hand.

A real ext4 on a loop device in memory. A process saves as fast as it can and
acknowledges each save that it was told is durable; at a random moment
`FS_IOC_SHUTDOWN` drops everything that the file system has not yet sent to the
device. The disk is mounted again, its journal replayed, and looked at. The next
writer goes on in what the last one left, unless that was a loss. The device keeps
what it was sent: a disk that lies about a flush is not simulated.

    python benchmarks/power_cuts.py [--cuts 20] [--seed 1] [--dir /dev/shm]
"""

import argparse
import contextlib
import itertools
import multiprocessing
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from agent.rundir.checkpoints import (
    Stage,
    list_checkpoints,
    newest_resumable,
    read_latest,
)
from agent.rundir.errors import NoCheckpointError
from agent.rundir.layout import RunDir, checkpoint_name
from agent.rundir.verify.path import verify_path
from agent.rundir.verify.verdict import Level, State
from benchmarks.disks.loop import cut_power, mounted, new_image
from benchmarks.table import Row, print_table
from tests.trainer.checkpoint.states import facts, make_run, make_state, payload
from tests.trainer.chunks.endless_writer import KEEP_ROUNDS, model_of
from trainer.checkpoint.load import AUTO, decide
from trainer.checkpoint.publish import Publisher
from trainer.checkpoint.retention import prune
from trainer.checkpoint.state import TrainState
from trainer.chunks.split import TensorSplit
from trainer.chunks.store import ChunkStore

PEER_CUTS = 10
LONGEST_S = 0.6
"""Between the first byte of a writer and the cut; some ten saves."""
PATIENCE_S = 30.0
"""For the first save, in half of the cuts."""
KEEP = 3
WIDTH = 40_000
"""Of the model: a state of 3.4 MB."""

Acknowledge = Callable[[int], object]


@dataclass
class Seen:
    """What is on the disk after one cut."""

    newest: int
    """The newest sound one; 0: there is none."""
    torn: list[str]
    """What shows itself as whole and is not."""
    latest: int = sys.maxsize
    """What `latest` names, where there is such a file; -1: nothing sound."""


@dataclass
class Tally:
    """What all cuts together have shown."""

    cuts: int = 0
    saves: int = 0
    torn: list[str] = field(default_factory=list)
    """One line per cut with something torn."""
    lost: int = 0
    """Cuts after which an acknowledged save was not there."""
    empty: int = 0
    """Those of them after which no sound save was there at all."""
    latest_behind: int = 0
    """Cuts after which `latest` named nothing sound, or an older one."""

    def add(self, seen: Seen, acknowledged: int, saves: int) -> None:
        """Count one cut, and the saves acknowledged before it."""
        self.cuts += 1
        self.saves += saves
        self.torn += ["; ".join(seen.torn)] if seen.torn else []
        self.lost += seen.newest < acknowledged
        self.empty += seen.newest == 0 < acknowledged
        self.latest_behind += seen.latest < acknowledged


@dataclass(frozen=True)
class Checkpoints:
    """Our publishing, with retention as training has it."""

    state: TrainState = field(default_factory=lambda: make_state(width=WIDTH))
    """Trained before the first fork: that loads a second's worth of torch."""

    def write(self, disk: Path, start: int, acknowledge: Acknowledge) -> None:
        """Resume as training does, and save without end."""
        run = make_run(disk / "run")
        # What was published and never verified is verified now.
        start = max(start, decide(run, AUTO, silent).number + 1)
        publisher = Publisher(run, silent)
        saved = payload(self.state)
        for step in itertools.count(start):
            for tensor in self.state.model.parameters():
                tensor.data.fill_(step)
            told = facts(self.state, saved, step=step)
            outcome = publisher.publish(checkpoint_name(step), saved, told)
            assert outcome.refusal is None, outcome
            acknowledge(step)
            prune(run, KEEP, silent)

    def look(self, disk: Path) -> Seen:
        """Read everything that is there."""
        run = RunDir(disk / "run")
        torn = []
        for entry in list_checkpoints(run):
            if entry.stage in (Stage.PUBLISHED, Stage.VERIFIED, Stage.DAMAGED):
                verdict = verify_path(entry.path, Level.CONTENT)
                if verdict.state is not State.SOUND:
                    torn.append(f"{entry.path.name} is {verdict.state.value}")
        try:
            newest = newest_resumable(run)
        except NoCheckpointError:
            return Seen(0, torn, self._latest(run))
        held = torch.load(newest.path / "state.pt", weights_only=True)["model"]
        if any((held[name] != newest.number).any() for name in ("0.weight", "0.bias")):
            torn.append(f"{newest.name} holds another state")
        return Seen(newest.number, torn, self._latest(run))

    def _latest(self, run: RunDir) -> int:
        name = read_latest(run)
        if name is None:
            return -1 if run.latest.exists() else 0
        for entry in list_checkpoints(run):
            if entry.path.name == name and entry.stage is Stage.VERIFIED:
                sound = verify_path(entry.path, Level.CONTENT).state is State.SOUND
                return entry.number if sound else -1
        return -1


@dataclass(frozen=True)
class ChunkRounds:
    """Our chunk store: a round is what a put has returned for."""

    def write(self, disk: Path, start: int, acknowledge: Acknowledge) -> None:
        """Save without end."""
        with ChunkStore.open(self._path(disk)) as store:
            for number in itertools.count(start):
                store.put_round(
                    number,
                    model_of(number),
                    keep_rounds=KEEP_ROUNDS,
                    split=TensorSplit(1 << 16),
                )
                acknowledge(number)

    def look(self, disk: Path) -> Seen:
        """Read everything that is there."""
        if not self._path(disk).exists():
            return Seen(0, [])
        with ChunkStore.open(self._path(disk)) as store:
            with store.reader() as reader:
                findings = reader.verify().findings
            torn = [f"{f.finding}: {f.detail}" for f in findings]
            numbers = [row.round_num for row in store.rounds()]
            for number in numbers:
                held = store.get_round(number)
                expected = model_of(number)
                if any(not held[name].equal(expected[name]) for name in expected):
                    torn.append(f"round {number} holds another model")
        return Seen(max(numbers, default=0), torn)

    def _path(self, disk: Path) -> Path:
        return RunDir(disk / "run").chunk_store("server")


@dataclass(frozen=True)
class TorchSave:
    """What people write by hand, with `torch.save`, step by step more careful."""

    is_in_place: bool = False
    is_synced: bool = False

    def write(self, disk: Path, start: int, acknowledge: Acknowledge) -> None:
        """Save without end."""
        tensor = torch.empty(21 * WIDTH)
        for step in itertools.count(start):
            saved = {"w": tensor.fill_(step), "step": step}
            if self.is_in_place:
                torch.save(saved, disk / "last.pt")
            else:
                self._save_beside(disk, step, saved)
            acknowledge(step)

    def _save_beside(self, disk: Path, step: int, saved: dict[str, object]) -> None:
        partial = disk / f"{step}.tmp"
        torch.save(saved, partial)
        if self.is_synced:
            with partial.open("rb") as file:
                os.fsync(file.fileno())
        partial.rename(disk / f"{step}.pt")
        (disk / f"{step - KEEP}.pt").unlink(missing_ok=True)

    def look(self, disk: Path) -> Seen:
        """Read everything that is there."""
        torn, newest = [], 0
        for path in disk.glob("*.pt"):
            if verify_path(path, Level.CONTENT).state is not State.SOUND:
                torn.append(path.name)
                path.unlink()
                continue
            newest = max(newest, torch.load(path, weights_only=True)["step"])
        return Seen(newest, torn)


Subject = Checkpoints | ChunkRounds | TorchSave

PEERS = {
    "`torch.save` in place": TorchSave(is_in_place=True),
    "temporary file and rename, keep 3": TorchSave(),
    "the same with fsync, directory not synced": TorchSave(is_synced=True),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cuts", type=int, default=20, help="of each of ours")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--dir", type=Path, default=Path("/dev/shm"))
    options = parser.parse_args()
    problem = why_not(options.dir)
    if problem:
        return print_table([Row("power cuts", problem, "-")])
    torch.set_num_threads(1)
    chance = random.Random(options.seed)
    with tempfile.TemporaryDirectory(dir=options.dir) as folder:
        bench = Bench(Path(folder), chance)
        found = [
            *checkpoint_rows(bench.cut("checkpoints", Checkpoints(), options.cuts)),
            *chunk_rows(bench.cut("chunk store", ChunkRounds(), options.cuts)),
        ]
        peer_cuts = min(PEER_CUTS, options.cuts)
        for name, peer in PEERS.items():
            found.append(peer_row(name, bench.cut(name, peer, peer_cuts)))
    return print_table(found)


def why_not(folder: Path) -> str | None:
    """Return why nothing can be measured here; None: it can."""
    if os.geteuid() != 0:
        return "needs root"
    if shutil.which("mkfs.ext4") is None:
        return "needs `mkfs.ext4`"
    with tempfile.TemporaryDirectory(dir=folder) as trial:
        try:
            with mounted(new_image(Path(trial)), Path(trial) / "disk"):
                return None
        except subprocess.CalledProcessError as error:
            return f"needs loop mounts: {error.stderr.strip()}"


@dataclass
class Bench:
    """A folder for disks, and chance."""

    folder: Path
    chance: random.Random

    def cut(self, name: str, subject: Subject, cuts: int) -> Tally:
        """Cut the power again and again, on one disk that grows old."""
        tally = Tally()
        image, point = new_image(self.folder), self.folder / "disk"
        promised = last = 0
        for _ in range(cuts):
            with mounted(image, point):
                acknowledged = self._write_until_cut(subject, point, last + 1)
            with mounted(image, point):
                seen = subject.look(point)
            promised = max(acknowledged, default=promised)
            tally.add(seen, promised, len(acknowledged))
            # A number is never given twice, or an old file would pass as new.
            last = max(last, promised, seen.newest)
            if seen.newest < promised:
                image, promised = new_image(self.folder), 0
        image.unlink()
        report(name, tally)
        return tally

    def _write_until_cut(self, subject: Subject, disk: Path, start: int) -> list[int]:
        receiver, sender = multiprocessing.Pipe(duplex=False)
        context = multiprocessing.get_context("fork")  # torch is loaded once
        writer = context.Process(
            target=write, args=(subject, disk, start, sender), daemon=True
        )
        writer.start()
        sender.close()
        receiver.recv()
        if self.chance.random() < 0.5:
            # On a busy machine the first save may take longer than all the rest.
            receiver.poll(PATIENCE_S)
        time.sleep(self.chance.uniform(0, LONGEST_S))
        has_ended = not writer.is_alive()
        # Not after the cut: an fsync that it meets on its way can return well, and
        # where there is no power nobody hears of it.
        acknowledged = list(received(receiver))
        cut_power(disk)
        writer.kill()
        writer.join()
        receiver.close()
        if has_ended:
            raise RuntimeError("the writer ended by itself, above is why")
        return acknowledged


def write(subject: Subject, disk: Path, start: int, sender: Connection) -> None:
    """Save until killed; runs in a process of its own."""
    sender.send(0)
    try:
        subject.write(disk, start, sender.send)
    except Exception:
        if not is_cut(disk):
            raise
        time.sleep(60)  # until killed, within milliseconds


def is_cut(disk: Path) -> bool:
    try:
        (disk / "is-cut").touch()
    except OSError:
        return True
    return False


def received(receiver: Connection) -> Iterator[int]:
    """Yield what was said so far."""
    with contextlib.suppress(EOFError):
        while receiver.poll():
            yield receiver.recv()


def silent(_event_type: type, /, **_fields: object) -> None:
    """Tell nobody."""


def report(name: str, tally: Tally) -> None:
    """Say what the rows do not: how much was saved, and what was torn first."""
    found = f"torn {len(tally.torn)}, lost {tally.lost}"
    print(f"{name}: {tally.saves} saves acknowledged in {tally.cuts} cuts, {found}")
    for line in tally.torn[:3]:
        print(f"    torn: {line}")


def checkpoint_rows(tally: Tally) -> Iterator[Row]:
    yield none_of("published checkpoints: torn", len(tally.torn), tally)
    yield none_of("published checkpoints: an acknowledged one lost", tally.lost, tally)
    yield none_of(
        "`latest` names an older one or no sound one", tally.latest_behind, tally
    )


def chunk_rows(tally: Tally) -> Iterator[Row]:
    yield none_of("chunk store: a round torn", len(tally.torn), tally)
    yield none_of("chunk store: an acknowledged round lost", tally.lost, tally)


def none_of(claim: str, count: int, tally: Tally) -> Row:
    is_met = count == 0 and tally.saves > 0
    return Row(claim, f"{count} of {tally.cuts} cuts", "-", "", "0", is_met)


def peer_row(name: str, tally: Tally) -> Row:
    said = f"torn {len(tally.torn)}, newest lost {tally.lost}, all lost {tally.empty}"
    return Row(f"peer: {name}", "-", f"{said} of {tally.cuts} cuts")


if __name__ == "__main__":
    sys.exit(main())
