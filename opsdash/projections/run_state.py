"""Is the run alive, and what would be lost: one verdict from all the evidence.

Pure: whoever asks gives both clocks. Five states, the worst that holds: blind
(cannot be judged), dead, finished, degraded, healthy. What cannot be seen is
never taken for good news, and a holder on another host never for dead.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from agent.rundir.process import Liveness
from opsdash import units
from opsdash.projections.barriers import BoardRow
from opsdash.projections.batch import Batch
from opsdash.projections.checkpoints import CheckpointRow
from opsdash.projections.event_words import Severity
from opsdash.projections.lateness import Straggler
from opsdash.projections.ranks import RankRow
from opsdash.projections.round_rows import ClientRow
from opsdash.projections.steps import Nonfinite

STALE_NS = 5_000_000_000
"""A heartbeat or progress older than this degrades the run."""
SILENT_NS = 30_000_000_000
"""Silence after which a run whose lock's holder is gone counts as dead."""
REMOTE_SILENT_NS = 3_000_000_000
"""Three heartbeats: a remote run that stands still so long cannot be judged."""
START_NS = 60_000_000_000
"""A start may take so long before its first event."""
_ERROR_ROOM = 60
"""Characters of an error that a headline tells; the events have it whole."""


class State(StrEnum):
    """What the screen says first."""

    HEALTHY = "healthy"
    DEGRADED = "degraded"
    DEAD = "dead"
    BLIND = "blind"
    FINISHED = "finished"


class Fix(NamedTuple):
    """A command that helps, or shows more."""

    text: str
    """Ready to paste."""
    command: str | None = None
    """Which of opsdash's own it is, such as `verify`; None: somebody else's."""


class Reason(NamedTuple):
    """One thing worth saying about the run."""

    severity: Severity
    """WARNING and above degrade a running run."""
    text: str
    fix: Fix | None = None


def own_fix(command: str, arguments: str) -> Fix:
    """Return one of opsdash's own commands, with arguments as a shell wants them."""
    return Fix(f"opsdash {command} {arguments}", command)


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the projections know, at one moment."""

    now_mono_ns: int
    """The reader's monotonic clock."""
    now_ns: int
    """The reader's wall clock, Unix ns."""
    attached_mono_ns: int
    """When the reader began to watch."""
    batch: Batch
    ranks: tuple[RankRow, ...] = ()
    world_size: int | None = None
    board: tuple[BoardRow, ...] = ()
    straggler: Straggler | None = None
    newest: CheckpointRow | None = None
    last_verified: CheckpointRow | None = None
    damaged: tuple[CheckpointRow, ...] = ()
    step: int | None = None
    """Optimizer steps, or federated rounds, completed."""
    step_ns: int | None = None
    """Typical length of one."""
    open_round: int | None = None
    """Of a federated run: the round that was opened or committed last."""
    is_paused: bool = False
    """Whether it stands still because an operator asked for that."""
    nonfinite: Nonfinite | None = None
    disk_free_bytes: int | None = None
    absent: tuple[ClientRow, ...] = ()
    num_undecodable: int = 0
    num_newer: int = 0
    num_hidden: int = 0

    @property
    def path(self) -> str:
        """The run directory."""
        return self.batch.directory.path

    @property
    def silence_ns(self) -> int | None:
        """Since anybody said anything; None: nobody ever did."""
        return min((row.seen_age_ns for row in self.ranks), default=None)

    @property
    def attempt_age_ns(self) -> int | None:
        """Since the newest attempt began, by the wall clock."""
        lock, attempts = self.batch.directory.lock, self.batch.directory.attempts
        began = [attempt.started_ns for attempt in attempts[-1:]]
        began += [lock.holder.taken_ns] if lock else []
        return max(0, self.now_ns - max(began)) if began else None


class Verdict(NamedTuple):
    """The one line that everything else explains."""

    state: State
    headline: str
    reasons: tuple[Reason, ...]
    """Worst first."""
    attempt: int
    """0: none was started."""
    phase: str | None
    step: int | None
    """Steps, or rounds, completed."""
    straggler: Straggler | None
    last_verified: CheckpointRow | None
    verified_age_ns: int | None
    """Since it was verified, by the wall clock."""
    steps_at_risk: int | None
    """Done since the last verified checkpoint: lost if the run dies now; None: it
    has ended as it should, or nothing was done yet."""
    at_risk_ns: int | None
    """What doing them again takes."""
    silence_ns: int | None
    is_provisional: bool
    """History is still being read, or a remote run was not watched long enough."""

    @property
    def exit_code(self) -> int:
        """0 healthy or finished, 1 degraded, 2 dead, 3 blind."""
        return _EXIT_CODES[self.state]


_EXIT_CODES = {
    State.HEALTHY: 0,
    State.FINISHED: 0,
    State.DEGRADED: 1,
    State.DEAD: 2,
    State.BLIND: 3,
}


def judge(evidence: Evidence, reasons: list[Reason]) -> Verdict:
    """Return the verdict.

    Args:
        evidence: What is known.
        reasons: What is worth saying, in any order.
    """
    ordered = tuple(sorted(reasons, key=lambda reason: -reason.severity))
    state, headline = _state(evidence, ordered)
    verified, step = evidence.last_verified, evidence.step
    # Of what is over nothing can be lost any more.
    at_risk = None if state is State.FINISHED else _steps_at_risk(evidence)
    return Verdict(
        state=state,
        headline=headline,
        reasons=ordered,
        attempt=evidence.batch.directory.newest_attempt,
        phase=_phase(evidence),
        step=step,
        straggler=evidence.straggler,
        last_verified=verified,
        verified_age_ns=(
            max(0, evidence.now_ns - verified.check.time_ns)
            if verified and verified.check
            else None
        ),
        steps_at_risk=at_risk,
        at_risk_ns=(
            at_risk * evidence.step_ns
            if at_risk is not None and evidence.step_ns is not None
            else None
        ),
        silence_ns=evidence.silence_ns,
        is_provisional=evidence.batch.backlog_bytes > 0 or _is_too_early(evidence),
    )


def _state(evidence: Evidence, reasons: tuple[Reason, ...]) -> tuple[State, str]:
    for judged in (
        _blind(evidence),
        _ended(evidence),
        _dead(evidence),
        _unheard(evidence),
    ):
        if judged is not None:
            return judged
    worst = max((reason.severity for reason in reasons), default=Severity.INFO)
    if worst >= Severity.WARNING:
        return State.DEGRADED, reasons[0].text
    return State.HEALTHY, _doing(evidence)


def _blind(evidence: Evidence) -> tuple[State, str] | None:
    """Whether what must be readable is not."""
    directory = evidence.batch.directory
    if directory.is_newer_schema or directory.identity is None:
        text = directory.problems[0].text if directory.problems else "nothing was read"
        return State.BLIND, text
    is_blind = evidence.batch.is_blind or not evidence.ranks
    if evidence.batch.problems and is_blind:
        return State.BLIND, evidence.batch.problems[0].text
    return None


def _ended(evidence: Evidence) -> tuple[State, str] | None:
    """Whether the run said goodbye: rank 0 or the server speaks for it."""
    rows = evidence.ranks
    leads = [row for row in rows if row.rank == 0 or row.stem == "server"]
    said = leads if leads and leads[0].ended else rows
    if not said or not all(row.ended for row in said):
        return None
    failed = next((row for row in said if row.ended == "error"), None)
    if failed is None:
        how = "stopped as asked" if said[0].ended == "stopped" else "completed"
        return State.FINISHED, f"{how}{_at_step(evidence)}"
    if any(_is_still_there(row) for row in rows):
        return None
    return State.DEAD, _failure(rows, failed)


def _failure(rows: tuple[RankRow, ...], failed: RankRow) -> str:
    """Return what failed, whoever fell silent first before who only noticed it."""
    error = _beginning(failed.error or "untold")
    told = f"{failed.node} ended with an error: {error}"
    gone = [r for r in rows if not r.ended and r.liveness is Liveness.DEAD]
    if not gone:
        return told
    first = max(gone, key=lambda row: row.seen_age_ns)
    text = f"{first.node} is gone without a goodbye{_last_step(first)}"
    if len(gone) > 1:
        text += f", {len(gone) - 1} more after it"
    is_culprit = first.seen_age_ns >= failed.seen_age_ns
    return f"{text}; {told}" if is_culprit else f"{told}; {text}"


def _beginning(error: str) -> str:
    """Return as many whole words of an error as a headline has room for."""
    if len(error) <= _ERROR_ROOM:
        return error
    words = error[:_ERROR_ROOM].rpartition(" ")[0] or error[:_ERROR_ROOM]
    return f"{words.rstrip(' :;,([')}..."


def _last_step(row: RankRow) -> str:
    pid = "" if row.pid is None else f" (process {row.pid})"
    return f"{pid}" if row.step is None else f"{pid} after step {units.count(row.step)}"


def _dead(evidence: Evidence) -> tuple[State, str] | None:
    """Whether the processes are gone without a goodbye."""
    directory = evidence.batch.directory
    lock = directory.lock
    if lock is not None and lock.liveness is not Liveness.DEAD:
        return None
    if directory.newest_attempt == 0:
        return State.DEAD, "no attempt was started"
    silence_ns = evidence.silence_ns
    known = list(directory.processes.values())
    if known and all(liveness is Liveness.DEAD for liveness in known):
        heard = (
            f"; last heard {units.ago(silence_ns)}" if silence_ns is not None else ""
        )
        attempt = directory.newest_attempt
        return State.DEAD, f"every process of attempt {attempt} is gone{heard}"
    is_gone_here = lock is not None or Liveness.UNKNOWN not in known
    if is_gone_here and (silence_ns is None or silence_ns > SILENT_NS):
        return State.DEAD, f"nobody holds the run, last heard {units.ago(silence_ns)}"
    return None


def _unheard(evidence: Evidence) -> tuple[State, str] | None:
    """Whether the run is somewhere else and says nothing."""
    if not _is_remote(evidence):
        return None
    silence_ns = evidence.silence_ns
    if silence_ns is not None and silence_ns <= REMOTE_SILENT_NS:
        return None
    where = _where(evidence)
    if silence_ns is None:
        return State.BLIND, f"it runs on {where} and wrote nothing yet"
    silent = units.duration(silence_ns)
    return (
        State.BLIND,
        f"it runs on {where}, silent for {silent}: cannot tell from here",
    )


def _is_remote(evidence: Evidence) -> bool:
    directory = evidence.batch.directory
    if directory.lock is not None:
        return directory.lock.liveness is Liveness.UNKNOWN
    return Liveness.UNKNOWN in directory.processes.values()


def _is_too_early(evidence: Evidence) -> bool:
    """Whether a remote run was not watched for three of its heartbeats yet."""
    watched_ns = evidence.now_mono_ns - evidence.attached_mono_ns
    silence_ns = evidence.silence_ns
    is_fresh = silence_ns is not None and silence_ns <= REMOTE_SILENT_NS
    return _is_remote(evidence) and not is_fresh and watched_ns <= REMOTE_SILENT_NS


def _is_still_there(row: RankRow) -> bool:
    if row.ended:
        return False
    if row.liveness is Liveness.UNKNOWN:
        return row.seen_age_ns <= STALE_NS
    return row.liveness is Liveness.ALIVE


def _where(evidence: Evidence) -> str:
    lock = evidence.batch.directory.lock
    if lock is not None:
        return f"host {lock.holder.process.host}"
    hosts = sorted({row.host for row in evidence.ranks if row.host})
    return f"host {hosts[0]}" if hosts else "another host"


def _doing(evidence: Evidence) -> str:
    phase = _phase(evidence)
    if phase is None:
        return f"attempt {evidence.batch.directory.newest_attempt} is starting"
    return f"{phase}{_at_step(evidence)}"


def _phase(evidence: Evidence) -> str | None:
    """Return the phase of the lead; of the lowest process where there is none."""
    if evidence.is_paused and not any(row.ended for row in evidence.ranks):
        return "paused"  # a federation only waits for its next round
    return next((row.phase for row in evidence.ranks if row.phase), None)


def _at_step(evidence: Evidence) -> str:
    if evidence.step is None:
        return ""
    identity = evidence.batch.directory.identity
    unit = "round" if identity and identity.kind == "federated" else "step"
    return f" at {unit} {units.count(evidence.step)}"


def _steps_at_risk(evidence: Evidence) -> int | None:
    if evidence.open_round is not None:
        # A committed round is durable; only the one that is open can be lost.
        return max(0, evidence.open_round - (evidence.step or 0))
    if evidence.step is None:
        return None
    saved = evidence.last_verified.number if evidence.last_verified else 0
    return max(0, evidence.step - max(0, saved))
