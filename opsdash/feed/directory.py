"""What a run directory says besides telemetry, read again only when it changed.

Looking costs a few `stat` calls; manifests are parsed when `checkpoints/` or
`verified.jsonl` moved, and now and then anyway: a modification time has the
granularity of a clock tick, and the size of a file inside a checkpoint can
change without it. Nothing here raises: what cannot be read is a `Problem`.
"""

import os
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import Generic, TypeVar

from agent.rundir.attempts import (
    Attempt,
    RunIdentity,
    list_attempts,
    read_attempt,
    read_identity,
)
from agent.rundir.checkpoints import CheckpointEntry, list_checkpoints, read_latest
from agent.rundir.errors import NewerSchemaError, RunDirError, UnreadableFileError
from agent.rundir.events import RunStarted
from agent.rundir.layout import RunDir, rank_stem
from agent.rundir.lock import LockView, read_lock
from agent.rundir.operations import Operation, read_operations
from agent.rundir.process import Liveness, ProcessId, liveness, this_process
from opsdash.feed.cursor import Clocks
from opsdash.projections.batch import CheckpointFact, Directory, Problem
from opsdash.projections.plausible import MAX_NODES, clip, whole

_ANYWAY_NS = 5 * 10**9
_TICK_NS = 10**9
_ASK_NS = 10**9
"""Between two looks at the processes: 60 us each, and there may be hundreds."""
_MAX_ATTEMPTS = 256
_MAX_PROCESSES = 512
"""Whose liveness is asked for, once a second."""
_MAX_CHECKPOINTS = 4_096
_MAX_OPERATIONS = 1_000

_Part = TypeVar("_Part")
_Signature = tuple[tuple[int, int, int] | None, ...]


@dataclass
class _Cached(Generic[_Part]):
    """A part of the directory that is read when its files moved."""

    paths: Callable[[], list[Path]]
    read: Callable[[], _Part]
    value: _Part
    _signature: _Signature | None = None
    _read_ns: int = 0

    def get(self, clocks: Clocks) -> _Part:
        signature = tuple(_signature_of(path) for path in self.paths())
        is_old = clocks.mono_ns - self._read_ns > _ANYWAY_NS
        if signature != self._signature or is_old:
            fresh = self.read()
            if fresh != self.value:
                self.value = fresh
            # What changed within the clock's tick may change again unseen.
            newest_ns = max((found[0] for found in signature if found), default=0)
            is_settled = clocks.time_ns - newest_ns > _TICK_NS
            self._signature = signature if is_settled else None
            self._read_ns = clocks.mono_ns
        return self.value


class DirectoryReader:
    """The parts of one run directory that are not telemetry."""

    def __init__(self, run: RunDir) -> None:
        self._run = run
        self._started: dict[str, RunStarted] = {}
        self._started_attempt = 0
        self._alive: Mapping[str, Liveness] = MappingProxyType({})
        self._asked: tuple[int, int, int] | None = None
        self._asked_ns = 0
        self._last = Directory(path=str(run.path))
        self._attempts: _Cached[tuple[tuple[Attempt, ...], int, tuple[Problem, ...]]]
        self._attempts = _Cached(
            lambda: [run.attempts], self._read_attempts, ((), 0, ())
        )
        self._checkpoints: _Cached[tuple[CheckpointFact, ...]] = _Cached(
            lambda: [run.checkpoints, run.verified], self._read_checkpoints, ()
        )
        self._operations: _Cached[tuple[Operation, ...]] = _Cached(
            self._operation_files, self._read_operations, ()
        )

        self._stores: _Cached[tuple[str, ...]] = _Cached(
            lambda: [run.chunks], self._read_stores, ()
        )

    def note_started(self, attempt: int, stem: str, event: RunStarted) -> None:
        """Remember a process of the newest attempt, to ask later whether it lives."""
        if attempt > self._started_attempt:
            self._started_attempt = attempt
            self._started.clear()
        if attempt == self._started_attempt and len(self._started) < _MAX_PROCESSES:
            self._started[stem] = event

    def read(self, clocks: Clocks, telemetry_attempt: int) -> Directory:
        """Return what lies there now; the same object as before if nothing changed."""
        identity, identity_problem, is_newer = self._read_identity()
        attempts, newest, problems = self._attempts.get(clocks)
        lock = read_lock(self._run.lock) if _is_plain(self._run.lock) else None
        newest = max(newest, telemetry_attempt, _attempt_of(lock))
        found = Directory(
            path=str(self._run.path),
            identity=identity,
            attempts=attempts,
            newest_attempt=newest,
            lock=lock,
            processes=self._processes_now(clocks, attempts, newest),
            checkpoints=self._checkpoints.get(clocks),
            latest=read_latest(self._run) if _is_plain(self._run.latest) else None,
            operations=self._operations.get(clocks),
            stores=self._stores.get(clocks),
            disk_free_bytes=_free_bytes(self._run.path),
            problems=identity_problem + problems,
            is_newer_schema=is_newer,
        )
        if replace(found, disk_free_bytes=self._last.disk_free_bytes) != self._last:
            self._last = found
        elif found.disk_free_bytes != self._last.disk_free_bytes:
            self._last = replace(self._last, disk_free_bytes=found.disk_free_bytes)
        return self._last

    def _read_identity(
        self,
    ) -> tuple[RunIdentity | None, tuple[Problem, ...], bool]:
        try:
            return read_identity(self._run), (), False
        except RunDirError as error:
            problem = Problem("run.json", str(error))
            return None, (problem,), isinstance(error, NewerSchemaError)
        except OSError as error:
            return None, (Problem("run.json", error.strerror or str(error)),), False

    def _read_attempts(self) -> tuple[tuple[Attempt, ...], int, tuple[Problem, ...]]:
        numbers = list_attempts(self._run)
        found, problems = [], []
        for number in numbers[-_MAX_ATTEMPTS:]:
            path = self._run.attempt_file(number)
            try:
                if not _is_plain(path):
                    raise UnreadableFileError(f"`{path}` is not a plain file")
                found.append(read_attempt(self._run, number))
            except RunDirError as error:
                problems.append(Problem(f"attempts/{path.name}", str(error)))
        return tuple(found), max(numbers, default=0), tuple(problems[-5:])

    def _read_checkpoints(self) -> tuple[CheckpointFact, ...]:
        entries = list_checkpoints(self._run)[:_MAX_CHECKPOINTS]
        return tuple(_fact(entry) for entry in entries)

    def _operation_files(self) -> list[Path]:
        try:
            with os.scandir(self._run.operations) as entries:
                names = [entry.path for entry in entries]
        except OSError:
            return []
        return [Path(name) for name in sorted(names)[-_MAX_PROCESSES:]]

    def _read_operations(self) -> tuple[Operation, ...]:
        return tuple(read_operations(self._run)[-_MAX_OPERATIONS:])

    def _read_stores(self) -> tuple[str, ...]:
        try:
            with os.scandir(self._run.chunks) as entries:
                names = sorted(entry.name for entry in entries)
        except OSError:
            return ()
        found = (name for name in names if _is_plain(self._run.chunk_store(name)))
        return tuple(islice(found, MAX_NODES))

    def _processes_now(
        self, clocks: Clocks, attempts: tuple[Attempt, ...], newest: int
    ) -> Mapping[str, Liveness]:
        """Ask again once a second, and whenever others are to be asked after."""
        asked = (newest, len(self._started), len(attempts))
        is_old = clocks.mono_ns - self._asked_ns >= _ASK_NS
        if is_old or asked != self._asked:
            self._alive = self._processes(attempts, newest)
            self._asked, self._asked_ns = asked, clocks.mono_ns
        return self._alive

    def _processes(
        self, attempts: tuple[Attempt, ...], newest: int
    ) -> MappingProxyType[str, Liveness]:
        """Ask after the processes of the newest attempt."""
        starter = attempts[-1].process if attempts else None
        if starter is None or attempts[-1].attempt != newest:
            starter = None
        found = {}
        if newest == self._started_attempt:
            for stem, event in self._started.items():
                found[stem] = liveness(_process_of(event, starter))
        if starter is not None and not {rank_stem(0), "server"} & found.keys():
            found["starter"] = liveness(starter)
        return MappingProxyType(found)


def _fact(entry: CheckpointEntry) -> CheckpointFact:
    manifest = entry.manifest
    return CheckpointFact(
        name=clip(entry.name, 120),
        directory=clip(entry.path.name, 160),
        stage=entry.stage,
        number=entry.number if whole(entry.number) is not None else -1,
        why_not=clip(entry.why_not) if entry.why_not else None,
        digest=entry.digest,
        size_bytes=whole(manifest.size_bytes) if manifest else None,
        created_ns=manifest.created_ns if manifest else None,
        attempt=manifest.attempt if manifest else None,
        reason=clip(manifest.reason, 40) if manifest else None,
        world_size=manifest.world_size if manifest else None,
        verification=entry.verification,
        is_pinned=entry.is_pinned,
    )


def _process_of(event: RunStarted, starter: ProcessId | None) -> ProcessId:
    """Complete what a process said of itself: the namespace is its starter's.

    Without a starter on the same host it is this reader's: then pid, start
    time and boot decide alone.
    """
    is_beside = starter is not None and starter.host == event.host
    namespace = starter.pid_namespace if starter and is_beside else _own_namespace()
    return ProcessId(
        host=event.host,
        boot_id=event.boot_id,
        pid_namespace=namespace,
        pid=event.pid,
        pid_start=event.pid_start,
    )


def _own_namespace() -> str:
    return this_process().pid_namespace


def _attempt_of(lock: LockView | None) -> int:
    if lock is None or lock.liveness is Liveness.DEAD:
        return 0
    return whole(lock.holder.attempt, 10**9) or 0


def _is_plain(path: Path) -> bool:
    """Whether a name is a plain file: opening a FIFO would wait for ever."""
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except OSError:
        return False


def _signature_of(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _free_bytes(path: Path) -> int | None:
    try:
        found = os.statvfs(path)
    except OSError:
        return None
    return found.f_bavail * found.f_frsize
