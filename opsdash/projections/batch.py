"""What the feed hands over and every projection folds: frozen batches.

A batch holds the lines that arrived in one pass over the telemetry, and what
the directory says besides: identity, attempts, lock, checkpoints, operations.
Ages are told by the reader's own monotonic clock; a writer's clocks are only
ever compared with themselves.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NamedTuple

from agent.rundir.attempts import Attempt, RunIdentity
from agent.rundir.checkpoints import Stage, Verification
from agent.rundir.events import AnyEvent
from agent.rundir.lock import LockView
from agent.rundir.operations import Operation
from agent.rundir.process import Liveness


class Origin(NamedTuple):
    """Where a group of lines comes from."""

    attempt: int
    file: str
    """Below `telemetry/`: `0001/rank-00003.jsonl`."""
    stem: str
    """The process: `rank-00003`, `server`, or a client's key."""
    rank: int | None
    """As the file's name says it; what a line claims is not asked."""
    seen_mono_ns: int
    """When the last of these lines came to be, on the reader's monotonic clock.

    Exact for what was written while reading; for older lines the age of the
    file is taken for it, which is as true as the file system's clock.
    """
    last_mono_ns: int
    """The writer's monotonic clock in the last of these lines."""
    is_live: bool
    """Written while this reader was watching."""


class UnreadableLine(NamedTuple):
    """A line that is not an event this version knows."""

    offset: int
    """Where it begins in its file, bytes."""
    head: str
    """Its beginning, as text."""
    reason: str
    is_newer_kind: bool


class Lines(NamedTuple):
    """Consecutive lines of one file, or those that stand for them."""

    origin: Origin
    offsets: tuple[int, ...]
    """Where each event's line begins, bytes; as many as events."""
    events: tuple[AnyEvent, ...]
    unreadable: tuple[UnreadableLine, ...] = ()
    """The first few of them."""
    num_undecodable: int = 0
    num_newer: int = 0
    is_thinned: bool = False
    """Of frequent events only a few are here: gaps in `seq` are no drops."""
    num_left_out: int = 0
    """Events of the file that these stand for."""
    num_missing: int = 0
    """Events that never reached the file; told only of thinned lines."""


class Problem(NamedTuple):
    """Something that cannot be read, and why."""

    where: str
    text: str


class CheckpointFact(NamedTuple):
    """One directory below `checkpoints/`, without its manifest's lists."""

    name: str
    """Without the prefix that sets it aside."""
    directory: str
    """Its name on disk."""
    stage: Stage
    number: int
    """Step or round; -1 where the name tells none."""
    why_not: str | None
    """Why it cannot be resumed from; None: it can."""
    digest: str | None = None
    size_bytes: int | None = None
    created_ns: int | None = None
    """Wall clock, Unix ns."""
    attempt: int | None = None
    reason: str | None = None
    world_size: int | None = None
    verification: Verification | None = None
    is_pinned: bool = False


@dataclass(frozen=True, slots=True)
class Directory:
    """What lies in the run directory besides telemetry, at one moment."""

    path: str = ""
    identity: RunIdentity | None = None
    attempts: tuple[Attempt, ...] = ()
    """Those that can be read, oldest first."""
    newest_attempt: int = 0
    """Greatest number that left anything, readable or not; 0: none."""
    lock: LockView | None = None
    processes: Mapping[str, Liveness] = field(
        default_factory=lambda: MappingProxyType({})
    )
    """By telemetry stem, of the newest attempt."""
    checkpoints: tuple[CheckpointFact, ...] = ()
    latest: str | None = None
    operations: tuple[Operation, ...] = ()
    stores: tuple[str, ...] = ()
    """Nodes that have a chunk store, by name."""
    disk_free_bytes: int | None = None
    problems: tuple[Problem, ...] = ()
    is_newer_schema: bool = False


@dataclass(frozen=True, slots=True)
class Batch:
    """One pass over a run directory."""

    now_mono_ns: int
    """The reader's monotonic clock when the pass ended."""
    now_ns: int
    """The reader's wall clock then, Unix ns."""
    directory: Directory
    lines: tuple[Lines, ...] = ()
    backlog_bytes: int = 0
    """Known to be on disk and not read yet; 0: caught up."""
    read_bytes: int = 0
    """Read since attaching, in total."""
    num_overlong: int = 0
    """Lines too long to be lines, skipped, in total."""
    problems: tuple[Problem, ...] = ()
    """Telemetry that cannot be read now."""
    is_preview: bool = False
    """The newest lines, read ahead of a long past: they will come once more."""
    is_blind: bool = False
    """The pass failed; everything else is from the one before."""
    is_polling: bool = False
    """The file system tells of no changes: they are looked for once a second."""

    @property
    def num_events(self) -> int:
        """Events in this batch."""
        return sum(len(lines.events) for lines in self.lines)
