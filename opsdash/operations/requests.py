"""Ask the running trainer for something, and follow what becomes of it.

A request is a file; what came of it is another, which only the run's owner can
read, and events that everybody can. Whatever tells first counts. Until the
trainer has taken it, it can be taken back.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from agent.rundir.errors import RunDirError
from agent.rundir.layout import RunDir
from agent.rundir.requests import (
    CLAIMED_SUFFIX,
    PENDING_SUFFIX,
    Stage,
    read_outcome,
    write_request,
)
from opsdash.operations.plan import Plan
from opsdash.operations.record import OperationLog, entry
from opsdash.operations.standing import running
from opsdash.projections.requests import RequestRow


class Step(StrEnum):
    """How far a request has come."""

    WAITING = "waiting"
    """The trainer has not taken it yet."""
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    WITHDRAWN = "withdrawn"


_OVER = (Step.DONE, Step.FAILED, Step.WITHDRAWN)
_FAILED_STAGES = {
    Stage.FAILED.value,
    Stage.REFUSED.value,
    Stage.EXPIRED.value,
    Stage.INTERRUPTED.value,
}


@dataclass
class Asked:
    """A request that was made from here."""

    run: RunDir
    request: str
    plan: Plan
    step: Step = Step.WAITING
    error: str = ""
    """Why it failed, in words."""
    acked: tuple[str, ...] = ()
    """Processes that have begun."""
    log: OperationLog | None = None
    operation: str = ""

    @property
    def is_over(self) -> bool:
        """Whether nothing more will come of it."""
        return self.step in _OVER

    def look(self, told: RequestRow | None) -> Step:
        """Return how far it is; `told` is what events say. Never waits."""
        if self.is_over:
            return self.step
        if told is not None:
            self.acked = told.acked
        step, error = self._stands(told)
        if step in _OVER:
            self._record("done" if step is Step.DONE else "failed", error)
        # Another thread may look: who sees that it is over sees why, and the entry.
        self.error = error
        self.step = step
        return step

    def withdraw(self) -> bool:
        """Take it back; False: the trainer has taken it already."""
        try:
            (self.run.requests / (self.request + PENDING_SUFFIX)).unlink()
        except OSError:
            return False
        self._record("cancelled", "taken back before the trainer took it")
        self.step = Step.WITHDRAWN
        return True

    def _stands(self, told: RequestRow | None) -> tuple[Step, str]:
        outcome = read_outcome(self.run, self.request)
        if outcome is not None:
            has_failed = outcome.stage in _FAILED_STAGES
            return (Step.FAILED if has_failed else Step.DONE), outcome.error or ""
        if told is not None and told.is_over:
            error = told.refusal or told.error
            return (Step.FAILED, error) if error else (Step.DONE, "")
        if running(self.run) is None:
            return Step.FAILED, "the run ended before it told an outcome"
        is_taken = (self.run.requests / (self.request + CLAIMED_SUFFIX)).exists()
        return (Step.RUNNING if is_taken or self.acked else Step.WAITING), ""

    def _record(self, stage: str, text: str) -> None:
        if self.log is not None:
            self.log.write(
                entry(
                    self.operation,
                    self.plan.kind,
                    stage,
                    subject=self.plan.subject,
                    text=text or f"request {self.request}",
                )
            )


def ask(
    run: RunDir, plan: Plan, args: dict[str, Any], log: OperationLog | None = None
) -> Asked:
    """Make the request that a plan tells of.

    Raises:
        ValueError: the plan says that it must not be made.
        RunDirError: it cannot be written.
    """
    if not plan.can_start:
        raise ValueError(f"this plan must not be carried out: {plan.why_not}")
    holder = running(run)
    attempt = holder.holder.attempt if holder else None
    try:
        request = write_request(run, plan.kind, args, attempt=attempt)
    except OSError as error:
        raise RunDirError(
            f"the request cannot be written to `{run.requests}`: {error.strerror}"
        ) from error
    operation = log.new_id() if log else ""
    if log is not None:
        log.write(
            entry(
                operation,
                plan.kind,
                "started",
                subject=plan.subject,
                command=plan.command,
                text=f"request {request}",
            )
        )
    return Asked(run, request, plan, log=log, operation=operation)
