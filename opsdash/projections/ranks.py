"""Each process of the newest attempt: what it does, where, and when it was heard.

Whether a trainer is stuck is told by its own counter on its own clock: the
agent's thread beats on over a main thread that stands still. How long ago
something was heard is told by the reader's clock.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from agent.rundir.events import (
    Event,
    EventsDropped,
    Heartbeat,
    HostStats,
    PhaseChanged,
    RunEnded,
    RunStarted,
    StepDone,
)
from agent.rundir.process import Liveness
from opsdash.projections.batch import Batch, Lines, Origin
from opsdash.projections.plausible import (
    MAX_NODES,
    MAX_NS,
    MAX_RANKS,
    clip,
    finite,
    nanoseconds,
    whole,
)
from opsdash.projections.sequence import Sequence

CLOCK_SKEW_NS = 10**9
"""A wall clock that differs by less is said by nobody."""
_SKEW_WINDOW_NS = 60 * 10**9


class RankRow(NamedTuple):
    """One process, as it stands now. Ages are ns on the reader's clock."""

    node: str
    """`rank-3`, `server`, or a client's key."""
    stem: str
    rank: int | None
    attempt: int
    phase: str | None
    phase_age_ns: int | None
    step: int | None
    seen_age_ns: int
    """Since anything was heard."""
    heartbeat_age_ns: int | None
    """None: no heartbeat yet."""
    progress_age_ns: int | None
    """Since the main thread did anything."""
    limit_ns: int | None
    """How long this phase may take, as the trainer said."""
    waiting_at: str | None
    waiting_age_ns: int | None
    ended: str | None
    """`completed`, `stopped`, `error`; None: it did not say goodbye."""
    error: str | None
    liveness: Liveness
    host: str | None
    pid: int | None
    rss_bytes: int | None
    cpu_frac: float | None
    gpu_bytes: int | None
    """Reserved by torch."""
    gpu_frac: float | None
    """How busy the busiest GPU is that it uses."""
    net_sent_per_s: float | None
    """Bytes, by its whole host, between its last two samples."""
    net_received_per_s: float | None
    agent_bytes: int | None
    """What the agent in it wrote."""
    num_dropped: int
    """Events that the process could not write."""
    dropped_age_ns: int | None
    """Since the last of them."""
    backlog: int
    """Events that wait in its memory because the file system blocks."""
    clock_skew_ns: int | None
    """Its wall clock minus the reader's, from the least delayed of its live lines."""


@dataclass
class _Process:
    """What is kept of one process; times are on its own monotonic clock."""

    stem: str
    rank: int | None
    attempt: int
    seen_ns: int
    """Reader's clock, when the newest line came to be."""
    last_mono_ns: int
    """Writer's clock, in that line: the two clocks meet here."""
    phase: str | None = None
    phase_since_ns: int = 0
    step: int | None = None
    beat_ns: int | None = None
    progress: int | None = None
    moved_ns: int | None = None
    limit_ns: int | None = None
    waiting_at: str | None = None
    waiting_since_ns: int = 0
    ended: str | None = None
    error: str | None = None
    host_name: str | None = None
    pid: int | None = None
    host: HostStats | None = None
    host_before: HostStats | None = None
    skew_ns: int | None = None
    skew_seen_ns: int = 0
    """When that was measured, the reader's monotonic clock."""
    seqs: Sequence = field(default_factory=Sequence)
    seq_file: str = ""
    num_gaps: int = 0
    """In what was read in full."""
    num_thinned_gaps: int = 0
    """In what was thinned."""
    num_unread: int = 0
    num_told: int = 0
    dropped_ns: int | None = None
    backlog: int = 0

    @property
    def num_dropped(self) -> int:
        """Drops are told by the process, or by gaps that no unread line fills."""
        num_gaps = self.num_gaps + self.num_thinned_gaps
        return max(self.num_told, num_gaps - self.num_unread)

    def compare_clocks(self, skew_ns: int) -> None:
        """Take in by what its wall clock differs in a line that was just read.

        A line that a file system holds back looks like a clock that is behind: of
        each minute the line with the least delay counts.
        """
        is_old = self.seen_ns - self.skew_seen_ns > _SKEW_WINDOW_NS
        if self.skew_ns is None or skew_ns > self.skew_ns or is_old:
            self.skew_ns, self.skew_seen_ns = skew_ns, self.seen_ns

    def age_ns(self, then_mono_ns: int | None, now_mono_ns: int) -> int | None:
        """Return how long ago a moment of the writer's clock is; None: no moment."""
        if then_mono_ns is None:
            return None
        before = min(max(self.last_mono_ns - then_mono_ns, 0), MAX_NS)
        return before + max(0, now_mono_ns - self.seen_ns)


class Ranks:
    """Folds what every process says about itself."""

    def __init__(self) -> None:
        self.attempt = 0
        self.num_hidden = 0
        """Processes beyond those that are kept."""
        self._processes: dict[str, _Process] = {}
        self._liveness: dict[str, Liveness] = {}
        self._world_size: int | None = None

    @property
    def world_size(self) -> int | None:
        """Ranks of the newest attempt; None where nobody said."""
        return self._world_size

    def on_batch(self, batch: Batch) -> None:
        """Take in what the directory says."""
        directory = batch.directory
        if directory.newest_attempt > self.attempt:
            self._enter(directory.newest_attempt)
        self._liveness = dict(directory.processes)
        for attempt in directory.attempts[-1:]:
            if attempt.attempt == self.attempt:
                self._world_size = whole(attempt.world_size, MAX_RANKS)

    def on_lines(self, lines: Lines, now_ns: int) -> None:
        """Take in that a process was heard, whatever it said."""
        origin = lines.origin
        process = self._process(origin)
        if process is None:
            return
        process.seen_ns, process.last_mono_ns = origin.seen_mono_ns, origin.last_mono_ns
        process.num_unread += lines.num_undecodable + lines.num_newer
        if lines.is_thinned:
            self._count_told(process, lines)
        else:
            self._count_all(process, lines)
        if lines.events and origin.is_live:
            process.compare_clocks(lines.events[-1].time_ns - now_ns)

    def on_started(self, origin: Origin, event: RunStarted) -> None:
        """Take in the first event of a process."""
        if process := self._process(origin):
            if event.segment == 1:
                process.ended = process.error = None
            process.host_name, process.pid = clip(event.host, 80), whole(event.pid)
            if self._world_size is None:
                self._world_size = whole(event.world_size, MAX_RANKS)

    def on_ended(self, origin: Origin, event: RunEnded) -> None:
        """Take in the last event of a process."""
        if process := self._process(origin):
            process.ended, process.waiting_at = clip(event.reason, 40), None
            process.error = clip(event.error) if event.error else None

    def on_heartbeat(self, origin: Origin, event: Heartbeat) -> None:
        """Take in phase, progress and where the main thread waits."""
        process = self._process(origin)
        if process is None:
            return
        then_ns = event.mono_ns
        process.beat_ns = then_ns
        process.phase = clip(event.phase, 40)
        process.phase_since_ns = then_ns - (nanoseconds(event.phase_age_ns) or 0)
        process.limit_ns = nanoseconds(event.limit_ns)
        process.backlog = whole(event.backlog) or 0
        if event.progress != process.progress or process.moved_ns is None:
            process.progress, process.moved_ns = event.progress, then_ns
        process.waiting_at = clip(event.waiting_at, 80) if event.waiting_at else None
        process.waiting_since_ns = then_ns - (nanoseconds(event.waiting_age_ns) or 0)
        self._step(process, event)

    def on_phase(self, origin: Origin, event: PhaseChanged) -> None:
        """Take in a change of phase before the next heartbeat tells it."""
        if process := self._process(origin):
            process.phase = clip(event.phase, 40)
            process.phase_since_ns = event.mono_ns
            process.limit_ns = None
            process.moved_ns = process.phase_since_ns

    def on_step(self, origin: Origin, event: StepDone) -> None:
        """Take in that a step is complete."""
        if process := self._process(origin):
            self._step(process, event)
            process.moved_ns = event.mono_ns

    def on_host(self, origin: Origin, event: HostStats) -> None:
        """Take in memory and load."""
        if process := self._process(origin):
            process.host_before, process.host = process.host, event

    def on_dropped(self, origin: Origin, event: EventsDropped) -> None:
        """Take in events that the process could not write."""
        if process := self._process(origin):
            process.num_told += whole(event.num_dropped) or 0
            process.dropped_ns = event.mono_ns

    def rows(self, now_mono_ns: int) -> list[RankRow]:
        """Return the processes of the newest attempt: server, ranks, clients."""
        found = [
            self._row(process, now_mono_ns) for process in self._processes.values()
        ]
        return sorted(found, key=_row_order)

    def age_ns(self, stem: str, then_mono_ns: int, now_mono_ns: int) -> int:
        """Return how long ago a process's clock stood at a time; 0: not known."""
        process = self._processes.get(stem)
        age_ns = process.age_ns(then_mono_ns, now_mono_ns) if process else None
        return age_ns or 0

    def disk_free_bytes(self) -> int | None:
        """Return the least free space that a process saw where the run lies."""
        free = [
            size
            for process in self._processes.values()
            if process.host
            and (size := whole(process.host.disk_free_bytes)) is not None
        ]
        return min(free, default=None)

    def _enter(self, attempt: int) -> None:
        self.attempt, self.num_hidden, self._world_size = attempt, 0, None
        self._processes.clear()

    def _process(self, origin: Origin) -> _Process | None:
        if origin.attempt > self.attempt:
            self._enter(origin.attempt)
        if origin.attempt < self.attempt:
            return None
        process = self._processes.get(origin.stem)
        if process is None and len(self._processes) < MAX_NODES:
            process = _Process(
                origin.stem,
                origin.rank,
                origin.attempt,
                origin.seen_mono_ns,
                origin.last_mono_ns,
            )
            self._processes[origin.stem] = process
        elif process is None:
            self.num_hidden += 1
        return process

    def _count_all(self, process: _Process, lines: Lines) -> None:
        if lines.origin.file != process.seq_file:
            process.seq_file = lines.origin.file
            process.seqs.begin()
        for event in lines.events:
            self._count(process, event)

    def _count_told(self, process: _Process, lines: Lines) -> None:
        """Take over what was counted where the lines were thinned."""
        process.seq_file = ""
        if lines.num_missing:
            process.num_thinned_gaps += lines.num_missing
            process.dropped_ns = lines.origin.last_mono_ns

    def _count(self, process: _Process, event: Event) -> None:
        seq = whole(event.seq)
        if seq is None:
            return
        if process.seqs.take(seq):
            process.dropped_ns = event.mono_ns
        process.num_gaps = process.seqs.num_missing

    def _step(self, process: _Process, event: Event) -> None:
        step = whole(event.step)
        if step is not None:
            process.step = step

    def _row(self, process: _Process, now_ns: int) -> RankRow:
        host = process.host
        return RankRow(
            node=_node(process),
            stem=process.stem,
            rank=process.rank,
            attempt=process.attempt,
            phase=process.phase,
            phase_age_ns=(
                process.age_ns(process.phase_since_ns, now_ns)
                if process.phase
                else None
            ),
            step=process.step,
            seen_age_ns=max(0, now_ns - process.seen_ns),
            heartbeat_age_ns=process.age_ns(process.beat_ns, now_ns),
            progress_age_ns=process.age_ns(process.moved_ns, now_ns),
            limit_ns=process.limit_ns,
            waiting_at=process.waiting_at,
            waiting_age_ns=(
                process.age_ns(process.waiting_since_ns, now_ns)
                if process.waiting_at
                else None
            ),
            ended=process.ended,
            error=process.error,
            liveness=self._liveness.get(process.stem, Liveness.UNKNOWN),
            host=process.host_name,
            pid=process.pid,
            rss_bytes=whole(host.rss_bytes) if host else None,
            cpu_frac=finite(host.cpu_frac) if host else None,
            gpu_bytes=whole(host.gpu_reserved_bytes) if host else None,
            gpu_frac=finite(host.gpu_frac) if host else None,
            net_sent_per_s=_rate(process, lambda host: host.net_sent_bytes),
            net_received_per_s=_rate(process, lambda host: host.net_received_bytes),
            agent_bytes=whole(host.agent_bytes) if host else None,
            num_dropped=process.num_dropped,
            dropped_age_ns=(
                process.age_ns(process.dropped_ns, now_ns)
                if process.num_dropped
                else None
            ),
            backlog=process.backlog,
            clock_skew_ns=process.skew_ns,
        )


def _rate(
    process: _Process, counter: Callable[[HostStats], int | None]
) -> float | None:
    """Return by how much a counter of the host grew in a second; None: not known."""
    before, now = process.host_before, process.host
    if before is None or now is None or now.mono_ns <= before.mono_ns:
        return None
    first, last = whole(counter(before)), whole(counter(now))
    if first is None or last is None or last < first:
        return None
    return (last - first) / (now.mono_ns - before.mono_ns) * 1e9


def _node(process: _Process) -> str:
    return process.stem if process.rank is None else f"rank-{process.rank}"


def _row_order(row: RankRow) -> tuple[int, str]:
    if row.stem == "server":
        return (-1, row.stem)
    return (MAX_RANKS + 1 if row.rank is None else row.rank, row.stem)
