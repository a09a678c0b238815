"""Where a run stands when somebody wants something of it, and whether it listens.

What a plan says is lost, and for how long training waits, comes from here; the
rest is looked up on disk at that moment.
"""

import os
from dataclasses import dataclass

from agent.rundir.layout import RunDir
from agent.rundir.lock import LockView, read_lock
from agent.rundir.process import Liveness
from agent.rundir.requests import RefusedRequestError, open_inbox, read_accepted
from opsdash import units
from opsdash.operations.resume import Loss
from opsdash.projections.barriers import BoardRow
from opsdash.projections.run import Run
from opsdash.projections.run_state import STALE_NS


@dataclass(frozen=True, slots=True)
class Standing:
    """What the projections know of a run; None is: not known."""

    is_federated: bool = False
    step: int | None = None
    """Steps, or rounds, completed."""
    step_ns: int | None = None
    """Typical length of one."""
    num_processes: int | None = None
    """Ranks, or clients that are there."""
    save_ns: int | None = None
    """How long the newest save took."""
    size_bytes: int | None = None
    """Of the newest checkpoint."""
    silence_ns: int | None = None
    """Since anybody was heard."""
    hang: str | None = None
    """Who is waited for in vain, in words; no rank comes to a safe point."""

    @property
    def loss(self) -> Loss:
        """What the plan of a resume is told."""
        return Loss(self.step, self.step_ns)


def standing_of(folded: Run, now_mono_ns: int, now_ns: int) -> Standing:
    """Return where a run stands by what was folded of it.

    Args:
        folded: Everything that is known.
        now_mono_ns: The clock that made the batches, monotonic.
        now_ns: Wall clock, Unix ns.
    """
    evidence = folded.evidence(now_mono_ns, now_ns)
    newest = folded.checkpoints.newest()
    num_clients = sum(client.is_present for client in folded.rounds.clients())
    is_federated = folded.kind == "federated"
    return Standing(
        is_federated=is_federated,
        step=evidence.step,
        step_ns=evidence.step_ns,
        num_processes=num_clients if is_federated else evidence.world_size,
        save_ns=newest.save_ns if newest else None,
        size_bytes=newest.size_bytes if newest else None,
        silence_ns=evidence.silence_ns,
        hang=_hang(evidence.board),
    )


def _hang(board: tuple[BoardRow, ...]) -> str | None:
    for row in board:
        if row.missing and (row.is_hung or row.waited_ns > STALE_NS):
            ranks = units.rank_ranges(row.missing)
            waited = units.duration(row.waited_ns)
            return f"rank {ranks} is missing at {row.name} for {waited}"
    return None


def running(run: RunDir) -> LockView | None:
    """Return who runs here, or may run on another host; None: nobody."""
    view = read_lock(run.lock) if run.lock.is_file() else None
    return None if view is None or view.liveness is Liveness.DEAD else view


def why_deaf(run: RunDir, kind: str) -> str | None:
    """Return why a request of a kind would not be carried out; None: it would."""
    holder = running(run)
    if holder is None:
        return "nothing runs here: there is nobody to ask"
    why = _why_closed(run)
    if why is not None:
        return why
    accepted = read_accepted(run)
    attempt = holder.holder.attempt
    if accepted is None or accepted.attempt != attempt:
        return f"attempt {attempt} takes no requests yet"
    if kind not in accepted.kinds:
        return f"this trainer takes no `{kind}`, it takes: {', '.join(accepted.kinds)}"
    return None


def note_of_silence(run: RunDir, silence_ns: int | None) -> str | None:
    """Return what to know of a trainer that cannot be seen from here."""
    holder = running(run)
    if holder is None or holder.liveness is not Liveness.UNKNOWN:
        return None
    where = f"it runs on {holder.holder.process.host}, not seen from here"
    heard = f", last heard {units.ago(silence_ns)}" if silence_ns is not None else ""
    return f"{where}{heard}: a request that nobody takes is void after 10 minutes"


def _why_closed(run: RunDir) -> str | None:
    """Return why this operator cannot leave a request."""
    try:
        os.close(open_inbox(run))
    except FileNotFoundError:
        return "it has no `requests/`: its trainer takes none"
    except RefusedRequestError as error:
        return str(error)
    except OSError as error:
        return f"`{run.requests}` cannot be opened: {error.strerror}"
    return None
