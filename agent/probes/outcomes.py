"""Tell what came of a request: once, in `requests/done/` and as an event.

A claimed request keeps its file until its outcome is on disk, so that the next
start finds what this one could not tell. An outcome that no disk takes now is
written when one does.
"""

import contextlib
import time

import msgspec

from agent.emitter import Emitter
from agent.probes.pending import PendingRequest, pending
from agent.probes.wording import clipped
from agent.rundir.atomic import write_atomic
from agent.rundir.errors import RunDirError
from agent.rundir.events import RequestDone
from agent.rundir.layout import RunDir
from agent.rundir.requests import (
    CLAIMED_SUFFIX,
    MAX_REQUEST_BYTES,
    PENDING_SUFFIX,
    REQUEST_SCHEMA,
    Outcome,
    Stage,
    is_safe_id,
    read_outcome,
    read_request,
)


class Outcomes:
    """Of the requests to one attempt."""

    def __init__(self, emitter: Emitter, run: RunDir, attempt: int) -> None:
        """Make it; nothing is written yet."""
        self._emitter = emitter
        self._run = run
        self._attempt = attempt
        self._late: list[Outcome] = []
        """Told as events; the disk did not take them."""

    def tell(
        self, request: PendingRequest, stage: Stage, error: str | None = None
    ) -> None:
        """Tell what came of a request. Never raises."""
        error = error and clipped(error)
        outcome = Outcome(
            schema=REQUEST_SCHEMA,
            id=request.id,
            kind=request.kind,
            args=request.args,
            created_ns=request.created_ns,
            by=request.by,
            attempt=self._attempt,
            stage=stage.value,
            finished_ns=time.time_ns(),
            error=error,
        )
        try:
            self._write(outcome)
        except OSError as failure:
            self._emitter.drop(f"request `{request.id}`: {failure}")
            self._late.append(outcome)
        self._emitter.emit(
            RequestDone, request=request.id, request_kind=request.kind, error=error
        )

    def tell_unfinished(self, inbox: int, name: str, stage: Stage, reason: str) -> None:
        """Tell the outcome of a claimed request of which nobody told any.

        Args:
            inbox: Descriptor of `requests/`.
            name: Of the claimed file.
            stage: How it ended.
            reason: In words.
        """
        request_id = name.removesuffix(CLAIMED_SUFFIX)
        if not is_safe_id(request_id):
            return
        if read_outcome(self._run, request_id) is not None:
            with contextlib.suppress(OSError):
                (self._run.requests / name).unlink()
            return
        try:
            request = pending(read_request(inbox, name))
        except (RunDirError, OSError):
            request = PendingRequest(request_id, "unknown")
        self.tell(request, stage, reason)

    def write_late(self) -> None:
        """Write what could not be written before.

        Raises:
            OSError: it still cannot.
        """
        while self._late:
            self._write(self._late[0])
            del self._late[0]

    def _write(self, outcome: Outcome) -> None:
        done = self._run.requests / "done"
        done.mkdir(mode=0o700, exist_ok=True)
        if read_outcome(self._run, outcome.id) is None:
            data = msgspec.json.encode(outcome)
            if len(data) >= MAX_REQUEST_BYTES:
                # Readers refuse what is larger; the arguments are the asker's own.
                data = msgspec.json.encode(
                    msgspec.structs.replace(outcome, args={}, by="")
                )
            path = done / (outcome.id + PENDING_SUFFIX)
            write_atomic(path, data + b"\n", mode=0o600)
        (self._run.requests / (outcome.id + CLAIMED_SUFFIX)).unlink(missing_ok=True)
