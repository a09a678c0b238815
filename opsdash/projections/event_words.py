"""Say an event in words, and how much it matters.

Texts hold what stands on disk, clipped but not made visible: whoever prints
them does that, for everything it prints.
"""

from collections.abc import Callable
from enum import IntEnum
from typing import Any

from agent.rundir import events as ev
from opsdash import units
from opsdash.projections.plausible import clip


class Severity(IntEnum):
    """How much an event matters; greater is worse."""

    DETAIL = 0
    """Comes with every step or second."""
    INFO = 1
    WARNING = 2
    ERROR = 3


_ALWAYS: dict[type[ev.Event], Severity] = {
    ev.Heartbeat: Severity.DETAIL,
    ev.HostStats: Severity.DETAIL,
    ev.BarrierArrived: Severity.DETAIL,
    ev.OptimizerNorms: Severity.DETAIL,
    ev.ClientUpdate: Severity.DETAIL,
    ev.PhaseChanged: Severity.DETAIL,
    ev.CheckpointRefused: Severity.WARNING,
    ev.CheckpointSuperseded: Severity.WARNING,
    ev.DiskLow: Severity.WARNING,
    ev.OptimizerReset: Severity.WARNING,
    ev.NonfiniteFound: Severity.WARNING,
    ev.EventsDropped: Severity.WARNING,
    ev.ClientLost: Severity.WARNING,
    ev.ClientRefused: Severity.WARNING,
    ev.RoundAbandoned: Severity.WARNING,
    ev.UpdateRefused: Severity.WARNING,
    ev.ChunkDamaged: Severity.ERROR,
}


def _if(is_bad: object, bad: Severity, good: Severity) -> Severity:
    return bad if is_bad else good


_MAX_SEEN = 2
_D, _I, _W, _E = Severity
_BY_CONTENT: dict[type[ev.Event], Callable[[Any], Severity]] = {
    ev.StepDone: lambda event: _if(event.is_skipped, _W, _D),
    ev.CollectivesSampled: lambda event: _if(event.unavailable, _I, _D),
    ev.HangNamed: lambda event: _if(event.missing, _E, _I),
    ev.RunStarted: lambda event: _if(event.segment > 1, _D, _I),
    ev.RunEnded: lambda event: _if(event.reason == "error", _E, _I),
    ev.CheckpointVerified: lambda event: _if(event.state != "sound", _E, _I),
    ev.StragglerNamed: lambda event: _if(event.straggler is not None, _W, _I),
    ev.RequestDone: lambda event: _if(event.error, _W, _I),
    ev.RequestSeen: lambda event: _if(event.refusal, _W, _I),
    ev.BarrierReleased: lambda event: _if(event.error, _W, _D),
    ev.StoreStats: lambda event: _if(event.error, _W, _D),
}


def severity(event: ev.Event) -> Severity:
    """Return how much an event matters."""
    judge = _BY_CONTENT.get(type(event))
    if judge is not None:
        return judge(event)
    return _ALWAYS.get(type(event), Severity.INFO)


def describe(event: ev.Event) -> str:
    """Return an event in words, one line, without who and when."""
    say = _WORDS.get(type(event))
    return clip(say(event)) if say else ev.kind(event)


def _started(event: ev.RunStarted) -> str:
    if event.segment > 1:
        return f"goes on in segment {event.segment}"
    num = event.world_size
    where = f"process {event.pid} on {event.host}" + (f", 1 of {num}" if num else "")
    return f"attempt {event.attempt} began: {where}"


def _ended(event: ev.RunEnded) -> str:
    return f"ended: {event.reason}" + (f": {event.error}" if event.error else "")


def _heartbeat(event: ev.Heartbeat) -> str:
    text = f"{event.phase} for {units.duration(event.phase_age_ns)}"
    if event.waiting_at:
        waited = units.duration(event.waiting_age_ns)
        text += f", waits at {event.waiting_at} for {waited}"
    if event.backlog:
        text += f", {event.backlog} events wait for the disk"
    return text


def _step(event: ev.StepDone) -> str:
    parts = [f"loss {units.number(event.loss)}"]
    if event.grad_norm is not None:
        parts.append(f"gradient {units.number(event.grad_norm)}")
    if event.step_ns:
        parts.append(units.duration(event.step_ns))
    if event.is_skipped or event.nonfinite:
        what = f"{event.nonfinite or 'a gradient'} was not finite"
        parts.append(f"skipped: {what}" if event.is_skipped else what)
    return ", ".join(parts)


def _eval(event: ev.EvalDone) -> str:
    best = ", the best so far" if event.is_best else ""
    buffers = f", with {event.buffers} buffers" if event.buffers else ""
    return f"held-out loss {units.number(event.loss)}{best}{buffers}"


def _phase(event: ev.PhaseChanged) -> str:
    before = f", was {event.previous}" if event.previous else ""
    return f"{event.phase}{before}"


def _arrived(event: ev.BarrierArrived) -> str:
    return f"arrived at {event.name} #{event.index}"


def _released(event: ev.BarrierReleased) -> str:
    text = f"left {event.name} #{event.index} after {units.duration(event.wait_ns)}"
    return text + (f": {event.error}" if event.error else "")


def _saving(event: ev.CheckpointSaving) -> str:
    return f"{event.checkpoint}: saving ({event.reason})"


def _published(event: ev.CheckpointPublished) -> str:
    size = units.byte_size(event.size_bytes)
    return f"{event.checkpoint}: published, {size}"


def _verified(event: ev.CheckpointVerified) -> str:
    took = units.duration(event.verify_ns)
    return f"{event.checkpoint}: {event.state} ({event.level}, {took}, by {event.by})"


def _loaded(event: ev.CheckpointLoaded) -> str:
    at = (
        ""
        if event.resumed_step is None
        else f", goes on from step {event.resumed_step}"
    )
    return f"{event.checkpoint}: loaded in {units.duration(event.load_ns)}{at}"


def _refused(event: ev.CheckpointRefused) -> str:
    return f"{event.checkpoint}: refused: {event.reason}"


def _pruned(event: ev.CheckpointPruned) -> str:
    return f"{event.checkpoint}: pruned, {units.byte_size(event.freed_bytes)} freed"


def _superseded(event: ev.CheckpointSuperseded) -> str:
    return f"{event.checkpoint}: superseded, now {event.renamed_to}"


def _disk(event: ev.DiskLow) -> str:
    free = units.byte_size(event.free_bytes)
    return f"{free} free, a checkpoint takes {units.byte_size(event.checkpoint_bytes)}"


def _norms(event: ev.OptimizerNorms) -> str:
    return (
        f"{event.optimizer}: gradient {units.number(event.grad)}, "
        f"update/parameter {units.number(event.update_ratio)}"
    )


def _reset(event: ev.OptimizerReset) -> str:
    missed = f", {event.rounds_missed} rounds missed" if event.rounds_missed else ""
    return f"{event.optimizer}: state cleared: {event.reason}{missed}"


def _nonfinite(event: ev.NonfiniteFound) -> str:
    return f"{event.tensor} is not finite ({event.where})"


def _host(event: ev.HostStats) -> str:
    cpu = units.percent(event.cpu_frac)
    text = f"{units.byte_size(event.rss_bytes)} resident, {cpu} of a core"
    if event.gpu_reserved_bytes:
        text += f", {units.byte_size(event.gpu_reserved_bytes)} on GPUs"
        text += f", {units.percent(event.gpu_frac)} busy" if event.gpu_frac else ""
    if event.agent_ns is not None and event.agent_bytes is not None:
        spent, wrote = (
            units.duration(event.agent_ns),
            units.byte_size(event.agent_bytes),
        )
        text += f"; the agent wrote {wrote} in {spent}"
    return text


def _dropped(event: ev.EventsDropped) -> str:
    return f"{event.num_dropped} events could not be written: {event.reason}"


def _straggler(event: ev.StragglerNamed) -> str:
    lost = units.percent(event.lost_frac)
    since = f"since step {event.since_step}"
    if event.is_rotating:
        text = f"changing ranks are waited for, {lost} {since}"
    elif event.straggler is None:
        return "no rank stands out any more"
    else:
        how = "persistent" if event.is_persistent else "rotating"
        text = f"rank {event.straggler} costs {lost}, {how} {since}"
    if event.lost_rank_ns:
        rank_s = round(event.lost_rank_ns / 1e9)
        lost = f"{units.count(rank_s)} rank-second{'' if rank_s == 1 else 's'}"
        text += f"; so far {units.percent(event.run_frac)}, {lost}"
    return text


def _hang(event: ev.HangNamed) -> str:
    waited = units.duration(event.waited_ns)
    if not event.missing:
        return f"{event.barrier} goes on after {waited}, nobody is missing any more"
    missing = units.rank_ranges(event.missing)
    seen = "".join(f"; {_last_seen(rank)}" for rank in event.last_seen[:_MAX_SEEN])
    return f"{event.barrier} hangs for {waited}, missing: {missing}{seen}"


def _last_seen(rank: ev.LastSeen) -> str:
    text = f"rank {rank.rank} last told of {rank.phase or 'nothing'}"
    if rank.step is not None:
        text += f" at step {rank.step}"
    if rank.waiting_at:
        text += f", waiting at {rank.waiting_at}"
    return text + (f", stacks: {rank.stacks}" if rank.stacks else "")


def _stacks(event: ev.StacksWritten) -> str:
    if not event.has_stacks:
        return f"no stacks ({event.reason})"
    return f"stacks in {event.file} ({event.reason})"


def _request_seen(event: ev.RequestSeen) -> str:
    if event.refusal:
        return f"{event.request_kind} refused: {event.refusal}"
    return f"{event.request_kind} asked for"


def _request_acked(event: ev.RequestAcked) -> str:
    return f"{event.request_kind} begun"


def _request_done(event: ev.RequestDone) -> str:
    if event.error:
        return f"{event.request_kind} failed: {event.error}"
    return f"{event.request_kind} done"


def _round_started(event: ev.RoundStarted) -> str:
    return f"round {event.round_num} opened for {len(event.clients)} clients"


def _round_committed(event: ev.RoundCommitted) -> str:
    text = (
        f"round {event.round_num} committed: {len(event.members)} of "
        f"{event.num_selected} in {units.duration(event.round_ns)}"
    )
    if event.accuracy_frac is not None:
        text += f", accuracy {units.percent(event.accuracy_frac)}"
    if event.source:
        return f"{text} ({event.reason} from {event.source})"
    return text if event.reason == "complete" else f"{text} ({event.reason})"


def _round_abandoned(event: ev.RoundAbandoned) -> str:
    return (
        f"round {event.round_num} abandoned with {event.num_updates} of "
        f"{event.num_selected} updates: {event.reason}"
    )


def _client_refused(event: ev.ClientRefused) -> str:
    more = f", and {event.num_untold} before" if event.num_untold else ""
    return f"{event.client} was turned away: {event.reason}{more}"


def _joined(event: ev.ClientJoined) -> str:
    return f"{event.client} {'came back' if event.is_return else 'joined'}"


def _lost(event: ev.ClientLost) -> str:
    return f"{event.client} was lost: {event.reason}"


def _update(event: ev.ClientUpdate) -> str:
    return (
        f"{event.client}: {event.num_examples} examples, "
        f"loss {units.number(event.loss)}"
    )


def _update_refused(event: ev.UpdateRefused) -> str:
    more = f", and {event.num_untold} before" if event.num_untold else ""
    return f"{event.client}: update refused: {event.reason}{more}"


def _store(event: ev.StoreStats) -> str:
    if event.error:
        return f"the round was not stored: {event.error}"
    return (
        f"{event.new_chunks} new chunks, {units.byte_size(event.new_bytes)}, "
        f"file {units.byte_size(event.file_bytes)}"
    )


def _chunk_damaged(event: ev.ChunkDamaged) -> str:
    return f"{event.store}: chunk {event.chunk} is damaged: {event.reason}"


def _chunk_repaired(event: ev.ChunkRepaired) -> str:
    return f"{event.store}: chunk {clip(event.digest, 20)} repaired from {event.source}"


def _collectives(event: ev.CollectivesSampled) -> str:
    if event.unavailable:
        return f"collectives are not sampled: {event.unavailable}"
    return f"{len(event.started_ns)} collectives sampled, group {event.group}"


_WORDS: dict[type[ev.Event], Callable[[Any], str]] = {
    ev.RunStarted: _started,
    ev.RunEnded: _ended,
    ev.Heartbeat: _heartbeat,
    ev.StepDone: _step,
    ev.EvalDone: _eval,
    ev.PhaseChanged: _phase,
    ev.BarrierArrived: _arrived,
    ev.BarrierReleased: _released,
    ev.CheckpointSaving: _saving,
    ev.CheckpointPublished: _published,
    ev.CheckpointVerified: _verified,
    ev.CheckpointLoaded: _loaded,
    ev.CheckpointRefused: _refused,
    ev.CheckpointPruned: _pruned,
    ev.CheckpointSuperseded: _superseded,
    ev.DiskLow: _disk,
    ev.OptimizerNorms: _norms,
    ev.OptimizerReset: _reset,
    ev.NonfiniteFound: _nonfinite,
    ev.HostStats: _host,
    ev.EventsDropped: _dropped,
    ev.StragglerNamed: _straggler,
    ev.HangNamed: _hang,
    ev.StacksWritten: _stacks,
    ev.RequestSeen: _request_seen,
    ev.RequestAcked: _request_acked,
    ev.RequestDone: _request_done,
    ev.RoundStarted: _round_started,
    ev.RoundCommitted: _round_committed,
    ev.RoundAbandoned: _round_abandoned,
    ev.ClientRefused: _client_refused,
    ev.ClientJoined: _joined,
    ev.ClientLost: _lost,
    ev.ClientUpdate: _update,
    ev.UpdateRefused: _update_refused,
    ev.StoreStats: _store,
    ev.ChunkDamaged: _chunk_damaged,
    ev.ChunkRepaired: _chunk_repaired,
    ev.CollectivesSampled: _collectives,
}
