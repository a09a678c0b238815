"""Telemetry events: what an agent writes and a dashboard reads.

One event is one JSON object on one line of `telemetry/<attempt>/<process>.jsonl`.
A file has exactly one writer; its last line may be torn if that writer died.
Fields and kinds are added, never renamed or reused, and a new field has a
default, so that an old reader and a new writer get along.

A number that is not finite is None with the name of the tensor beside it:
JSON has no NaN, and a run that diverges is the one that must stay readable.
"""

from typing import NamedTuple

import msgspec


# Plain values all the way down form no cycles: the collector need not visit
# hundreds of thousands of them while a log is read.
class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """What every event carries."""

    time_ns: int
    """Wall clock at emission, Unix ns. For display; never for intervals."""
    mono_ns: int
    """Monotonic clock of the writer's host, ns. Comparable within a host only."""
    node: str
    """Who wrote it: `rank-3`, `server`, or a client's key."""
    seq: int = 0
    """Counts the events of one file from 0; a gap is a dropped event."""
    rank: int | None = None
    step: int | None = None
    """Optimizer steps completed by this node, across attempts."""
    round_num: int | None = None


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
    """Barrier that the main thread waits at; None: at none."""
    waiting_index: int | None = None
    waiting_age_ns: int | None = None
    backlog: int = 0
    """Events in memory because the file system blocks; SIGKILL would lose them."""


class PhaseChanged(Event, frozen=True, tag_field="kind", tag="phase_changed"):
    """The trainer began to do something else."""

    phase: str
    """`starting`, `loading`, `training`, `evaluating`, `saving`, `paused`, `ending`."""
    previous: str | None = None


class Wait(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One wait at a barrier that did not block: part of a step's line."""

    name: str
    index: int
    """How often this rank had arrived at the barrier of this name before."""
    arrived_mono_ns: int
    wait_ns: int
    """Arrival to release. The straggler waits least."""


class StepDone(Event, frozen=True, tag_field="kind", tag="step_done"):
    """An optimizer step is complete, or was skipped for a non-finite gradient."""

    loss: float | None = None
    """Mean over all ranks, where the trainer reduces it; else this rank's."""
    lr: float | None = None
    grad_norm: float | None = None
    num_tokens: int | None = None
    """Tokens that all ranks consumed in this step."""
    step_ns: int | None = None
    data_ns: int | None = None
    """Waiting for the next batch."""
    is_skipped: bool = False
    nonfinite: str | None = None
    """What was not finite: `loss`, or a tensor's name."""
    waits: tuple[Wait, ...] = ()
    agent_ns: int | None = None
    """What the agent itself cost since the step before."""


class EvalDone(Event, frozen=True, tag_field="kind", tag="eval_done"):
    """Held-out loss, reduced over ranks."""

    loss: float | None
    num_tokens: int | None = None
    eval_ns: int | None = None
    is_best: bool = False
    accuracy_frac: float | None = None
    buffers: str | None = None
    """Whose normalisation statistics a federation's model was measured with:
    `calibration` (the server's own examples), `average`, `initial`, or `none` where
    it has no such; None: those of the model that was trained."""


class BarrierArrived(Event, frozen=True, tag_field="kind", tag="barrier_arrived"):
    """A rank is about to wait. Written before, so that a hang is visible."""

    name: str
    index: int
    limit_ns: int | None = None
    """How long the wait may last before the barrier counts as hung."""


class BarrierReleased(Event, frozen=True, tag_field="kind", tag="barrier_released"):
    """A rank that had arrived goes on."""

    name: str
    index: int
    wait_ns: int
    error: str | None = None
    """Why it was released without everybody, e.g. a time-out."""


class CheckpointSaving(Event, frozen=True, tag_field="kind", tag="checkpoint_saving"):
    """Rank 0 began to write a checkpoint."""

    checkpoint: str
    reason: str


class CheckpointPublished(
    Event, frozen=True, tag_field="kind", tag="checkpoint_published"
):
    """The checkpoint has its final name, durably."""

    checkpoint: str
    digest: str
    """Of its manifest."""
    size_bytes: int
    write_ns: int | None = None
    """Serialize, hash and write."""
    fsync_ns: int | None = None
    publish_ns: int | None = None
    """Manifest, rename and directory fsync."""


class CheckpointVerified(
    Event, frozen=True, tag_field="kind", tag="checkpoint_verified"
):
    """The bytes on disk were read back and compared."""

    checkpoint: str
    digest: str | None
    state: str
    """A verdict, e.g. `sound` or `damaged`."""
    level: str
    verify_ns: int
    by: str
    """`save`, `load`, or the operator."""


class CheckpointLoaded(Event, frozen=True, tag_field="kind", tag="checkpoint_loaded"):
    """Every part of this rank's state came from the checkpoint."""

    checkpoint: str
    digest: str
    load_ns: int
    resumed_step: int | None = None


class CheckpointRefused(Event, frozen=True, tag_field="kind", tag="checkpoint_refused"):
    """A checkpoint was not saved, or not loaded, and why."""

    checkpoint: str
    reason: str


class CheckpointPruned(Event, frozen=True, tag_field="kind", tag="checkpoint_pruned"):
    """Retention removed a checkpoint."""

    checkpoint: str
    freed_bytes: int


class CheckpointSuperseded(
    Event, frozen=True, tag_field="kind", tag="checkpoint_superseded"
):
    """A resume from further back put this checkpoint on an abandoned branch."""

    checkpoint: str
    renamed_to: str


class DiskLow(Event, frozen=True, tag_field="kind", tag="disk_low"):
    """Fewer than three checkpoints fit on the disk, or none did."""

    free_bytes: int
    checkpoint_bytes: int


class GroupNorms(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Norms of one parameter group."""

    lr: float | None = None
    num_params: int = 0
    grad: float | None = None
    param: float | None = None
    state: dict[str, float | None] = msgspec.field(default_factory=dict)


class OptimizerNorms(Event, frozen=True, tag_field="kind", tag="optimizer_norms"):
    """L2 norms over every local parameter, accumulated in float32."""

    optimizer: str
    grad: float | None = None
    param: float | None = None
    update_ratio: float | None = None
    """Norm of the last update over the norm of the parameters."""
    state: dict[str, float | None] = msgspec.field(default_factory=dict)
    """By the optimizer's own name: `exp_avg`, `exp_avg_sq`, `momentum_buffer` …"""
    state_steps: tuple[int, int] | None = None
    """Least and greatest step counter over the parameters."""
    groups: tuple[GroupNorms, ...] = ()
    nonfinite: tuple[str, ...] = ()
    """Names of tensors whose norm is not finite."""
    probe_ns: int | None = None


class OptimizerReset(Event, frozen=True, tag_field="kind", tag="optimizer_reset"):
    """The optimizer's state was cleared; its hyperparameters were kept."""

    optimizer: str
    reason: str
    before: dict[str, float | None]
    after: dict[str, float | None]
    rounds_missed: int | None = None
    model_digest: str | None = None
    data_position: int | None = None
    seed: int | None = None


class NonfiniteFound(Event, frozen=True, tag_field="kind", tag="nonfinite_found"):
    """A NaN or an infinity, and in which tensor."""

    tensor: str
    where: str
    """`loss`, `gradient`, `parameter`, or `optimizer`."""


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
    gpu_reserved_bytes: int | None = None
    agent_ns: int | None = None
    """What the agent's calls cost the training thread, in total."""
    agent_bytes: int | None = None
    """What the agent wrote, in total."""


class EventsDropped(Event, frozen=True, tag_field="kind", tag="events_dropped"):
    """Events that could not be written, counted and told as soon as one could."""

    num_dropped: int
    reason: str


class StragglerNamed(Event, frozen=True, tag_field="kind", tag="straggler_named"):
    """The rank that costs the others most changed."""

    straggler: int | None
    """A rank; None when nobody stands out any more."""
    lost_frac: float
    """Share of the window's time that the other ranks waited."""
    is_persistent: bool
    since_step: int


class HangNamed(Event, frozen=True, tag_field="kind", tag="hang_named"):
    """A barrier passed its limit; who had not arrived."""

    barrier: str
    missing: tuple[int, ...]
    waited_ns: int


class StacksWritten(Event, frozen=True, tag_field="kind", tag="stacks_written"):
    """Python stacks of this process are in `stacks/`."""

    file: str
    reason: str


class RequestSeen(Event, frozen=True, tag_field="kind", tag="request_seen"):
    """The agent read a request and found it valid, or refused it."""

    request: str
    request_kind: str
    refusal: str | None = None


class RequestAcked(Event, frozen=True, tag_field="kind", tag="request_acked"):
    """This rank has begun to carry out a request that all agreed on."""

    request: str
    request_kind: str


class RequestDone(Event, frozen=True, tag_field="kind", tag="request_done"):
    """A request's outcome."""

    request: str
    request_kind: str
    error: str | None = None


class RoundStarted(Event, frozen=True, tag_field="kind", tag="round_started"):
    """A federated round was opened for these clients."""

    clients: tuple[str, ...]
    model_digest: str
    deadline_ns: int | None = None
    """Length of the round, not a point in time."""


class RoundCommitted(Event, frozen=True, tag_field="kind", tag="round_committed"):
    """The round's aggregate and its members are durable."""

    members: tuple[str, ...]
    num_selected: int
    round_ns: int
    model_digest: str
    loss: float | None = None
    accuracy_frac: float | None = None
    reason: str = "complete"
    """`complete`, `deadline`, or `restored` by an operator, without members."""
    source: str | None = None
    """What was restored, e.g. `client-1 round 3`; None: nothing."""


class RoundAbandoned(Event, frozen=True, tag_field="kind", tag="round_abandoned"):
    """A round ended without enough updates, or was stopped; none of them counts."""

    reason: str
    num_updates: int
    """That had come in vain."""
    num_selected: int


class ClientRefused(Event, frozen=True, tag_field="kind", tag="client_refused"):
    """The server turned a connection away: token, protocol or key are not right."""

    client: str
    """The key that it claimed."""
    reason: str
    num_untold: int = 0
    """Refused since the last one that was told: at most one a second is."""


class ClientJoined(Event, frozen=True, tag_field="kind", tag="client_joined"):
    """A client opened a session."""

    client: str
    session: str
    last_round: int | None = None
    """The last round that the server had acknowledged to it."""
    is_return: bool = False


class ClientLost(Event, frozen=True, tag_field="kind", tag="client_lost"):
    """A client's session ended without goodbye."""

    client: str
    session: str
    reason: str


class ClientUpdate(Event, frozen=True, tag_field="kind", tag="client_update"):
    """A client's contribution to a round, as the server accepted it."""

    client: str
    num_examples: int
    loss: float | None = None
    queue_ns: int | None = None
    compute_ns: int | None = None
    transfer_ns: int | None = None
    num_bytes: int | None = None
    update_norm: float | None = None
    cosine: float | None = None
    """Of this update to the weighted mean of the others."""
    accuracy_frac: float | None = None


class UpdateRefused(Event, frozen=True, tag_field="kind", tag="update_refused"):
    """An update that must not enter the aggregate: late, duplicate or foreign."""

    client: str
    reason: str


class StoreStats(Event, frozen=True, tag_field="kind", tag="store_stats"):
    """The chunk store after a round was put."""

    num_rounds: int
    num_chunks: int
    new_chunks: int
    new_bytes: int
    shared_bytes: int
    file_bytes: int
    put_ns: int
    error: str | None = None


class ChunkDamaged(Event, frozen=True, tag_field="kind", tag="chunk_damaged"):
    """A chunk is missing, or its bytes are not what its digest says."""

    store: str
    chunk: int
    digest: str
    reason: str


class ChunkRepaired(Event, frozen=True, tag_field="kind", tag="chunk_repaired"):
    """A damaged chunk was replaced by sound bytes from elsewhere."""

    store: str
    digest: str
    source: str


class CollectivesSampled(
    Event, frozen=True, tag_field="kind", tag="collectives_sampled"
):
    """When this rank's host started the latest collectives."""

    group: str
    first_id: int
    """Sequence number of the first entry; the others follow without gaps."""
    started_ns: tuple[int, ...]
    """Wall clock of this host: align ranks before comparing."""


AnyEvent = (
    RunStarted
    | RunEnded
    | Heartbeat
    | PhaseChanged
    | StepDone
    | EvalDone
    | BarrierArrived
    | BarrierReleased
    | CheckpointSaving
    | CheckpointPublished
    | CheckpointVerified
    | CheckpointLoaded
    | CheckpointRefused
    | CheckpointPruned
    | CheckpointSuperseded
    | DiskLow
    | OptimizerNorms
    | OptimizerReset
    | NonfiniteFound
    | HostStats
    | EventsDropped
    | StragglerNamed
    | HangNamed
    | StacksWritten
    | RequestSeen
    | RequestAcked
    | RequestDone
    | RoundStarted
    | RoundCommitted
    | RoundAbandoned
    | ClientRefused
    | ClientJoined
    | ClientLost
    | ClientUpdate
    | UpdateRefused
    | StoreStats
    | ChunkDamaged
    | ChunkRepaired
    | CollectivesSampled
)


class Undecodable(NamedTuple):
    """A line that is not an event this version knows."""

    line: bytes
    reason: str
    is_newer_kind: bool
    """A well-formed event of a kind that a newer writer added."""


_encoder = msgspec.json.Encoder()
_decoder: msgspec.json.Decoder[AnyEvent] = msgspec.json.Decoder(AnyEvent)


class _KindOnly(msgspec.Struct):
    kind: str


_kind_decoder = msgspec.json.Decoder(_KindOnly)


def encode(event: Event) -> bytes:
    """Return the event as one line, newline included, ready to append."""
    return _encoder.encode(event) + b"\n"


def kind(event: Event) -> str:
    """Return the event's kind as it stands on disk."""
    return str(type(event).__struct_config__.tag)


KINDS: frozenset[str] = frozenset(
    str(member.__struct_config__.tag) for member in AnyEvent.__args__
)


def decode(line: bytes) -> AnyEvent | Undecodable:
    """Read one line. What this version does not know is Undecodable, not an error."""
    try:
        return _decoder.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return Undecodable(line, str(error), _is_newer_kind(line))


def decode_lines(data: bytes) -> list[AnyEvent | Undecodable]:
    """Read whole lines at once; slower, line by line, only where one is bad."""
    try:
        return list(_decoder.decode_lines(data))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return [decode(line) for line in data.split(b"\n") if line.strip()]


def _is_newer_kind(line: bytes) -> bool:
    try:
        found = _kind_decoder.decode(line).kind
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return found not in KINDS
