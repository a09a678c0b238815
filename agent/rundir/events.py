"""Telemetry events: what an agent writes and a dashboard reads.

One event is one JSON object on one line of `telemetry/<attempt>/<process>.jsonl`.
A file has exactly one writer; its last line may be torn if that writer died.
Fields and kinds are added, never renamed or reused, and a new field has a
default, so that an old reader and a new writer get along. The kinds stand in
`vocabulary/`, one family per module; here they are one union, read and written.

A number that is not finite is None with the name of the tensor beside it:
JSON has no NaN, and a run that diverges is the one that must stay readable.
"""

from typing import NamedTuple, cast

import msgspec

from agent.rundir.vocabulary.checkpoints import (
    CheckpointLoaded,
    CheckpointPruned,
    CheckpointPublished,
    CheckpointRefused,
    CheckpointSaving,
    CheckpointSuperseded,
    CheckpointVerified,
    DiskLow,
)
from agent.rundir.vocabulary.event import (
    Event,
)
from agent.rundir.vocabulary.orders import (
    RequestAcked,
    RequestDone,
    RequestSeen,
)
from agent.rundir.vocabulary.process import (
    EventsDropped,
    Heartbeat,
    HostStats,
    LastingWait,
    PhaseChanged,
    RunEnded,
    RunStarted,
    StacksWritten,
)
from agent.rundir.vocabulary.ranks import (
    BarrierArrived,
    BarrierReleased,
    CollectivesSampled,
    HangNamed,
    LastSeen,
    StragglerNamed,
)
from agent.rundir.vocabulary.rounds import (
    ClientJoined,
    ClientLost,
    ClientRefused,
    ClientUpdate,
    RoundAbandoned,
    RoundCommitted,
    RoundStarted,
    UpdateRefused,
)
from agent.rundir.vocabulary.steps import (
    EvalDone,
    GroupNorms,
    NonfiniteFound,
    OptimizerNorms,
    OptimizerReset,
    StepDone,
    Wait,
)
from agent.rundir.vocabulary.stores import (
    ChunkDamaged,
    ChunkRepaired,
    StoreStats,
)

__all__ = [
    "KINDS",
    "AnyEvent",
    "BarrierArrived",
    "BarrierReleased",
    "CheckpointLoaded",
    "CheckpointPruned",
    "CheckpointPublished",
    "CheckpointRefused",
    "CheckpointSaving",
    "CheckpointSuperseded",
    "CheckpointVerified",
    "ChunkDamaged",
    "ChunkRepaired",
    "ClientJoined",
    "ClientLost",
    "ClientRefused",
    "ClientUpdate",
    "CollectivesSampled",
    "DiskLow",
    "EvalDone",
    "Event",
    "EventsDropped",
    "GroupNorms",
    "HangNamed",
    "Heartbeat",
    "HostStats",
    "LastSeen",
    "LastingWait",
    "NonfiniteFound",
    "OptimizerNorms",
    "OptimizerReset",
    "PhaseChanged",
    "RequestAcked",
    "RequestDone",
    "RequestSeen",
    "RoundAbandoned",
    "RoundCommitted",
    "RoundStarted",
    "RunEnded",
    "RunStarted",
    "StacksWritten",
    "StepDone",
    "StoreStats",
    "StragglerNamed",
    "Undecodable",
    "UpdateRefused",
    "Wait",
    "decode",
    "decode_lines",
    "encode",
    "kind",
]

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
        # A cast, not a copy: the list is nobody else's.
        return cast("list[AnyEvent | Undecodable]", _decoder.decode_lines(data))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return [decode(line) for line in data.split(b"\n") if line.strip()]


def _is_newer_kind(line: bytes) -> bool:
    try:
        found = _kind_decoder.decode(line).kind
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return found not in KINDS
