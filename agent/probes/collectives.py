"""When this rank's host started its latest collectives: the Flight Recorder.

All ranks leave a backward pass together, so step times cannot tell who was
late in it; the start of each collective can. torch keeps the latest ones in a
ring, and those of NCCL in another (`TORCH_FR_BUFFER_SIZE`). Reading it is a
private function that holds the GIL for some milliseconds, so it is called
rarely, more often when the pace of steps has changed, which all ranks see
alike, and never for more than a fixed share of the time. Where it is missing,
off or empty, that is said once.
"""

import os
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec

from agent.emitter import Emitter
from agent.probes.activity import Activity
from agent.rundir.events import CollectivesSampled

_RARELY_STEPS = 200
_FIRST_STEPS = 6
_LEARNING_STEPS = 60
"""Samples are frequent so long, because nothing is known yet: who is late from the
first step on changes no pace, and has to be named within twenty."""
_SUSPICIOUS_STEPS = 4
_BUDGET_FRAC = 0.0005
"""Of the time may be spent on samples."""
_BUDGET_S = 0.15
"""Of it may be saved up, for when the pace changes."""
_MAX_STARTS = 256
"""Collectives in one event."""
_MAX_GROUPS = 8


class Collective(NamedTuple):
    """The latest collective that this rank has started."""

    group: str
    id: int
    """Sequence number in its group."""
    name: str
    """E.g. `gloo:all_reduce`."""


class _Entry(msgspec.Struct):
    process_group: tuple[str, str] = ("", "")
    pg_id: int = 0
    """Of this process alone: which of the groups of that name it is."""
    collective_seq_id: int = 0
    profiling_name: str = ""
    time_created_ns: int = 0
    time_discovered_started_ns: int = 0
    is_p2p: bool = False

    @property
    def group(self) -> str:
        """Of a group with two backends each counts for itself."""
        name = " ".join(self.process_group)
        return f"{name} (nccl)" if self.profiling_name.startswith("nccl") else name

    @property
    def started_ns(self) -> int:
        """On the device where NCCL was told to time it, else on the host."""
        return self.time_discovered_started_ns or self.time_created_ns


class _Dump(msgspec.Struct):
    entries: list[_Entry] = []


class _Told(NamedTuple):
    """How far a group was told."""

    pg_id: int
    last_id: int


_decoder = msgspec.json.Decoder(_Dump)


class CollectivesProbe:
    """Reads the ring and writes what is new in it."""

    def __init__(self, emitter: Emitter, activity: Activity) -> None:
        """Make it; torch is looked for when it is first needed."""
        self.absence: str | None = None
        """Why there are no samples; None: there are, or nobody looked yet."""
        self._emitter = emitter
        self._activity = activity
        self._sampled_steps = 0
        self._told_ids: dict[str, _Told] = {}
        self._still_told: dict[str, int] = {}
        """By group: the progress at which the main thread was told to stand still."""
        self._has_said_empty = False
        self._budget_s = _BUDGET_S
        self._counted_s = time.monotonic()

    def look(self) -> None:
        """Take a sample if enough steps have passed, or their pace has changed."""
        if self.absence is not None:
            return
        num_new = self._activity.num_steps - self._sampled_steps
        if num_new < _SUSPICIOUS_STEPS:
            return
        every = _FIRST_STEPS if self._sampled_steps < _LEARNING_STEPS else _RARELY_STEPS
        if self._activity.has_changed_pace():
            every = _SUSPICIOUS_STEPS
        if num_new >= every and self._can_afford():
            self.sample()

    def sample(self, *, is_still: bool = False) -> Collective | None:
        """Write what is new; return the latest collective of this rank.

        `is_still`: the main thread stands still and the others may wait for it, so
        that nothing is new is written too, once.
        """
        began = time.thread_time()
        try:
            return self._sample(is_still=is_still)
        finally:
            spent_s = time.thread_time() - began
            # A hang is looked at whatever that costs, and leaves no debt for hours.
            self._budget_s = max(self._budget_s - spent_s, -_BUDGET_S)

    def _sample(self, *, is_still: bool) -> Collective | None:
        dumps = _dump_functions()
        if isinstance(dumps, str):
            self.absence = dumps
            self._say_unavailable(dumps)
            return None
        if not _is_recording():
            return None
        progress = self._activity.progress
        entries = [e for dump in dumps for e in _decoder.decode(dump()).entries]
        self._sampled_steps = self._activity.num_steps
        mine = _of_newest_groups([entry for entry in entries if not entry.is_p2p])
        # It may have gone on meanwhile.
        still_at = (
            progress if is_still and progress == self._activity.progress else None
        )
        groups = _by_group(mine)
        for group, started in groups[-_MAX_GROUPS:]:
            self._tell(group, started, still_at)
        # Some trainers make new groups for ever.
        _keep(self._told_ids, groups)
        _keep(self._still_told, groups)
        if not mine:
            self._say_empty()
            return None
        last = _newest(mine)
        return Collective(last.group, last.collective_seq_id, last.profiling_name)

    def _can_afford(self) -> bool:
        now = time.monotonic()
        saved_s = self._budget_s + _BUDGET_FRAC * (now - self._counted_s)
        self._budget_s, self._counted_s = min(_BUDGET_S, saved_s), now
        return self._budget_s > 0

    def _tell(self, group: str, entries: list[_Entry], still_at: int | None) -> None:
        run = _last_without_gap(entries)[-_MAX_STARTS:]
        pg_id, last_id = run[-1].pg_id, run[-1].collective_seq_id
        known = self._told_ids.get(group)
        told = known.last_id if known is not None and known.pg_id == pg_id else -1
        new = [entry for entry in run if entry.collective_seq_id > told]
        if not new and still_at in (None, self._still_told.get(group)):
            return
        self._told_ids[group] = _Told(pg_id, last_id)
        if still_at is not None:
            self._still_told[group] = still_at
        self._emitter.emit(
            CollectivesSampled,
            group=group,
            first_id=new[0].collective_seq_id if new else told + 1,
            started_ns=tuple(entry.started_ns for entry in new),
            is_still=still_at is not None,
        )

    def _say_empty(self) -> None:
        """Say once that steps go by without anything in the ring."""
        num_steps = self._activity.num_steps
        if num_steps >= _LEARNING_STEPS and not self._has_said_empty:
            self._has_said_empty = True
            self._say_unavailable(f"torch has recorded none in {num_steps} steps")

    def _say_unavailable(self, reason: str) -> None:
        self._emitter.emit(
            CollectivesSampled,
            group="",
            first_id=0,
            started_ns=(),
            unavailable=reason,
        )


def _dump_functions() -> list[Callable[[], str | bytes]] | str:
    """Return what reads the rings, or why they cannot be read."""
    torch = sys.modules.get("torch")
    if torch is None:
        return "this process does not use torch"
    if not torch.distributed.is_available():
        return "this torch has no distributed package"
    for variable in ("TORCH_FR_BUFFER_SIZE", "TORCH_NCCL_TRACE_BUFFER_SIZE"):
        if os.environ.get(variable) == "0":
            return f"{variable} is 0"
    c10d = sys.modules.get("torch._C._distributed_c10d")
    names = ("_dump_fr_trace_json", "_dump_nccl_trace_json")
    dumps = [getattr(c10d, name) for name in names if hasattr(c10d, name)]
    if not dumps:
        return f"torch {torch.__version__} has no Flight Recorder"
    return dumps


def _is_recording() -> bool:
    """Whether there is a group at all; without one there is nothing to read yet."""
    return bool(sys.modules["torch"].distributed.is_initialized())


def _by_group(entries: list[_Entry]) -> list[tuple[str, list[_Entry]]]:
    """Return the groups with their entries, those that were used last at the end."""
    groups: dict[str, list[_Entry]] = {}
    for entry in entries:
        groups.setdefault(entry.group, []).append(entry)
    return sorted(groups.items(), key=lambda item: _newest(item[1]).time_created_ns)


def _keep(told: dict[str, Any], groups: list[tuple[str, list[_Entry]]]) -> None:
    """Forget groups that the ring has forgotten."""
    for group in told.keys() - dict(groups).keys():
        del told[group]


def _newest(entries: list[_Entry]) -> _Entry:
    return max(entries, key=lambda entry: entry.time_created_ns)


def _of_newest_groups(entries: list[_Entry]) -> list[_Entry]:
    """Leave out groups that were destroyed and made again under their old name.

    The ring keeps what they did, and numbers begin anew.
    """
    newest: dict[str, int] = {}
    for entry in sorted(entries, key=lambda entry: entry.time_created_ns):
        newest[entry.group] = entry.pg_id
    return [entry for entry in entries if newest[entry.group] == entry.pg_id]


def _last_without_gap(entries: list[_Entry]) -> list[_Entry]:
    """Return the longest end of a group's entries whose numbers follow closely."""
    ordered = sorted(
        {entry.collective_seq_id: entry for entry in entries}.values(),
        key=lambda entry: entry.collective_seq_id,
    )
    begin = len(ordered) - 1
    while begin > 0 and (
        ordered[begin].collective_seq_id - ordered[begin - 1].collective_seq_id == 1
    ):
        begin -= 1
    return ordered[begin:]
