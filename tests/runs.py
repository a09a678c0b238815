"""Run directories made by hand: events through the codec, files by the layout.

For tests of readers. What a trainer really leaves is tested end to end; here a
test says exactly which lines, locks and checkpoints there are, and when.
"""

import os
import time
from pathlib import Path

import blake3
import msgspec

from agent.rundir import events as ev
from agent.rundir.attempts import Attempt, RunIdentity, encode_document
from agent.rundir.checkpoints import Verification, encode_verification
from agent.rundir.layout import (
    MANIFEST_NAME,
    STATE_NAME,
    RunDir,
    checkpoint_name,
    rank_stem,
)
from agent.rundir.lock import Holder
from agent.rundir.manifest import (
    FileEntry,
    Manifest,
    encode_manifest,
    manifest_digest,
)
from agent.rundir.process import ProcessId, this_process
from opsdash.feed.cursor import Clocks
from opsdash.feed.reader import RunReader
from opsdash.projections.run import Run
from opsdash.projections.run_state import Verdict

SECOND = 10**9
START_NS = 1_790_000_000 * SECOND
RESUME_COMMAND = ("python", "-m", "trainer", "resume", "--from", "{checkpoint}")


def dead_process() -> ProcessId:
    """A process of this boot that is gone: nobody starts at tick 1."""
    here = this_process()
    return msgspec.structs.replace(here, pid_start=1)


def remote_process() -> ProcessId:
    """A process on a host that is not this one."""
    return msgspec.structs.replace(this_process(), host="node-b.example")


class RunWriter:
    """Writes one run directory, line by line, with clocks that the test moves."""

    def __init__(
        self,
        path: Path,
        *,
        kind: str = "ddp",
        world_size: int = 2,
        process: ProcessId | None = None,
    ) -> None:
        self.run = RunDir(path)
        self.kind = kind
        self.world_size = world_size
        self.process = process or this_process()
        self.attempt = 0
        self.time_ns = time.time_ns()
        self.mono_ns = 1_000 * SECOND
        self._seqs: dict[str, int] = {}
        path.mkdir(parents=True, exist_ok=True)
        identity = RunIdentity(
            schema=1, run_id="cafe", kind=kind, created_ns=self.time_ns
        )
        self.run.identity.write_bytes(encode_document(identity))
        for folder in (self.run.attempts, self.run.telemetry, self.run.checkpoints):
            folder.mkdir(exist_ok=True)

    @property
    def path(self) -> Path:
        return self.run.path

    def wait(self, seconds: float) -> None:
        """Let both clocks of the run go on."""
        self.time_ns += int(seconds * SECOND)
        self.mono_ns += int(seconds * SECOND)

    def begin(self, *, lock: bool = True, started: bool = True, **fields) -> None:
        """Start the next attempt: its file, the lock, every rank's first event."""
        self.attempt += 1
        self._seqs.clear()
        attempt = Attempt(
            **{
                "attempt": self.attempt,
                "started_ns": self.time_ns,
                "process": self.process,
                "argv": ("python", "-m", "trainer"),
                "cwd": str(self.path.parent),
                "resume_command": RESUME_COMMAND,
                "world_size": self.world_size if self.kind == "ddp" else None,
                **fields,
            }
        )
        self.run.attempt_file(self.attempt).write_bytes(encode_document(attempt))
        if lock:
            self.lock()
        for stem in self.stems() if started else ():
            self.emit(stem, ev.RunStarted, **self.started_fields())

    def started_fields(self) -> dict:
        return {
            "schema": 1,
            "run_id": "cafe",
            "attempt": self.attempt,
            "run_kind": self.kind,
            "host": self.process.host,
            "boot_id": self.process.boot_id,
            "pid": self.process.pid,
            "pid_start": self.process.pid_start,
            "world_size": self.world_size if self.kind == "ddp" else None,
        }

    def stems(self) -> list[str]:
        if self.kind == "ddp":
            return [rank_stem(rank) for rank in range(self.world_size)]
        clients = [f"client-{number + 1}" for number in range(self.world_size)]
        return ["server", *clients]

    def lock(self, process: ProcessId | None = None) -> None:
        holder = Holder(
            process=process or self.process,
            attempt=self.attempt,
            taken_ns=self.time_ns,
        )
        self.run.lock.write_bytes(msgspec.json.encode(holder))

    def unlock(self) -> None:
        self.run.lock.unlink(missing_ok=True)

    def file(self, stem: str, segment: int = 1) -> Path:
        return self.run.telemetry_file(self.attempt, stem, segment)

    def emit(self, who: int | str, kind: type[ev.Event], **fields) -> bytes:
        """Append one event of a rank (by number) or a node (by its stem)."""
        stem = rank_stem(who) if isinstance(who, int) else who
        rank = int(stem[5:]) if stem.startswith("rank-") else None
        seq = self._seqs.get(stem, 0)
        event = kind(
            **{
                "time_ns": self.time_ns,
                "mono_ns": self.mono_ns,
                "node": stem if rank is None else f"rank-{rank}",
                "rank": rank,
                "seq": seq,
                **fields,
            }
        )
        self._seqs[stem] = event.seq + 1
        line = ev.encode(event)
        self.append(stem, line)
        return line

    def append(self, stem: str, data: bytes) -> None:
        path = self.file(stem)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            file.write(data)

    def beat(self, *who: int | str, phase: str = "training", **fields) -> None:
        """One heartbeat of the given processes, of all where none is given."""
        for stem in who or self.stems():
            beat = {"phase": phase, "phase_age_ns": 0, "progress": self.mono_ns}
            self.emit(stem, ev.Heartbeat, **{**beat, **fields})

    def steps(
        self,
        first: int,
        last: int,
        *,
        step_ns: int = 100_000_000,
        late: dict[int, int] | None = None,
        **fields,
    ) -> None:
        """Steps of every rank with one barrier each; `late`: ns by rank."""
        late = late or {}
        longest = max([*late.values(), 0])
        for step in range(first, last + 1):
            self.wait(step_ns / SECOND)
            for rank in range(self.world_size):
                arrived = self.mono_ns - longest + late.get(rank, 0)
                wait = ev.Wait("step.agree", step, arrived, self.mono_ns - arrived)
                self.emit(
                    rank,
                    ev.StepDone,
                    **{
                        "step": step,
                        "loss": 4.0 / step if step else 4.0,
                        "lr": 1e-3,
                        "grad_norm": 0.5,
                        "num_tokens": 1_000,
                        "step_ns": step_ns,
                        "waits": (wait,),
                        **fields,
                    },
                )

    def checkpoint(
        self,
        step: int,
        *,
        verified: bool = True,
        num_bytes: int = 4_096,
        content: bytes | None = None,
    ) -> Path:
        """A published checkpoint whose manifest and digest are right."""
        path = self.run.checkpoints / checkpoint_name(step)
        path.mkdir(parents=True)
        state = bytes([step % 251]) * num_bytes if content is None else content
        (path / STATE_NAME).write_bytes(state)
        manifest = encode_manifest(
            Manifest(
                schema=1,
                run_id="cafe",
                attempt=self.attempt,
                created_ns=self.time_ns,
                reason="interval",
                step=step,
                files=(
                    FileEntry(
                        name=STATE_NAME,
                        size_bytes=len(state),
                        digest=f"blake3:{blake3.blake3(state).hexdigest()}",
                    ),
                ),
            )
        )
        (path / MANIFEST_NAME).write_bytes(manifest)
        if verified:
            self.verify(step, manifest_digest(manifest))
        return path

    def verify(self, step: int, digest: str, state: str = "sound") -> None:
        line = Verification(
            checkpoint=checkpoint_name(step),
            digest=digest,
            time_ns=self.time_ns,
            state=state,
            level="content",
            by="save",
        )
        with self.run.verified.open("ab") as file:
            file.write(encode_verification(line))

    def end(self, reason: str = "completed", *, error: str | None = None) -> None:
        """Every process says goodbye and the lock is given back."""
        for stem in self.stems():
            self.emit(stem, ev.RunEnded, reason=reason, error=error)
        self.unlock()

    def age(self, seconds: float) -> None:
        """Make every telemetry file look last written so long ago."""
        then = time.time() - seconds
        for path in self.run.telemetry.rglob("*.jsonl"):
            os.utime(path, (then, then))


class HandClocks:
    """A reader's clocks that stand still until the test moves them."""

    def __init__(self) -> None:
        self.mono_ns = 10**15
        self.time_ns = time.time_ns()

    def __call__(self) -> Clocks:
        return Clocks(self.mono_ns, self.time_ns)

    def wait(self, seconds: float) -> None:
        self.mono_ns += int(seconds * SECOND)
        self.time_ns += int(seconds * SECOND)


class Watcher:
    """A reader and the folds over it, on clocks of the test."""

    def __init__(self, run: RunDir, clocks: HandClocks | None = None) -> None:
        self.clocks = clocks or HandClocks()
        self.reader = RunReader(run, clocks=self.clocks)
        self.run = Run()
        self.read()

    def read(self) -> Run:
        """Take in everything that is on disk now."""
        while True:
            self.reader.look_for_files()
            batch = self.reader.read()
            self.run.fold(batch)
            if not batch.backlog_bytes:
                return self.run

    def verdict(self) -> Verdict:
        return self.run.verdict(self.clocks.mono_ns, self.clocks.time_ns)

    def reasons(self) -> list[str]:
        return [reason.text for reason in self.verdict().reasons]
