"""What a process says of itself: its start, its beat, its host, its end.

Every node writes these, a rank as well as a server or a client.
"""

import msgspec

from agent.rundir.vocabulary.event import Event


class RunStarted(Event, frozen=True, tag_field="kind", tag="run_started"):
    """First event of every process in an attempt, and first line of each segment."""

    schema: int
    run_id: str
    attempt: int
    run_kind: str
    """`ddp` or `federated`."""
    host: str
    boot_id: str
    pid: int
    pid_start: int
    """Start time of the process in clock ticks since boot: tells a reused pid."""
    world_size: int | None = None
    segment: int = 1
    """Above 1: said again at the head of a later segment, nothing has started."""


class RunEnded(Event, frozen=True, tag_field="kind", tag="run_ended"):
    """Last event of a process that could still speak."""

    reason: str
    """`completed`, `stopped` (asked to), or `error`."""
    error: str | None = None


class LastingWait(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One wait that lasts while a heartbeat tells it."""

    name: str
    index: int
    """How often this process had arrived at the barrier of this name before."""
    age_ns: int
    limit_ns: int | None = None
    """How long the trainer lets it last; None: it gave no limit."""


class Heartbeat(Event, frozen=True, tag_field="kind", tag="heartbeat"):
    """Once a second, from the agent's own thread."""

    phase: str
    phase_age_ns: int
    """How long the trainer has been in this phase."""
    progress: int
    """Counts what the main thread did; a still counter under beats is a hang."""
    limit_ns: int | None = None
    """How long this phase may take before it counts as stuck; None: no limit."""
    waiting_at: str | None = None
    """Barrier that the main thread waits at, the innermost; None: at none."""
    waiting_index: int | None = None
    waiting_age_ns: int | None = None
    waits: tuple[LastingWait, ...] = ()
    """All barriers that it waits at, each inside those before; the last 16 of them.
    Empty beside a `waiting_at`: an older writer, which told the innermost alone."""
    backlog: int = 0
    """Events in memory because the file system blocks; SIGKILL would lose them."""


class PhaseChanged(Event, frozen=True, tag_field="kind", tag="phase_changed"):
    """The trainer began to do something else."""

    phase: str
    """`starting`, `loading`, `training`, `evaluating`, `saving`, `paused`, `ending`."""
    previous: str | None = None


class HostStats(Event, frozen=True, tag_field="kind", tag="host_stats"):
    """The process and its host, every few seconds."""

    cpu_frac: float
    """Of one core: 2.0 means two cores busy."""
    rss_bytes: int
    num_threads: int
    num_fds: int
    host_cpu_frac: float
    mem_free_bytes: int
    disk_free_bytes: int | None = None
    """Of the file system that holds the run directory."""
    net_sent_bytes: int | None = None
    net_received_bytes: int | None = None
    gpu_allocated_bytes: int | None = None
    """By tensors of this process, on all GPUs that it uses."""
    gpu_reserved_bytes: int | None = None
    """By torch in this process, likewise."""
    gpu_frac: float | None = None
    """How busy the busiest GPU that this process uses was, whoever used it."""
    agent_ns: int | None = None
    """What the agent's calls cost the training thread, in total."""
    agent_bytes: int | None = None
    """What the agent wrote, in total."""


class EventsDropped(Event, frozen=True, tag_field="kind", tag="events_dropped"):
    """Events that could not be written, counted and told as soon as one could."""

    num_dropped: int
    reason: str


class StacksWritten(Event, frozen=True, tag_field="kind", tag="stacks_written"):
    """Python stacks of a process are in `stacks/`, or could not be had."""

    file: str
    """Path in the run directory of that process's stacks, old ones too."""
    reason: str
    """What they were taken for; where none came, also why."""
    has_stacks: bool = True
    """False: none came. Writers before this field told so in `reason` alone."""
