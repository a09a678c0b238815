"""The trainer's side of `requests/`: notice, refuse, claim, have the outcome told.

The agent's thread reads the directory; the main thread only looks at what was
found. Every step of a request's life is a rename or a link of one file, so
that it is taken once, whoever else tries, and a crash leaves it where the next
start finds it: `<id>.json` was not begun, `<id>.claimed` without an outcome
was begun by a trainer that is gone. Only rank 0 or the server has an inbox.
"""

import contextlib
import os
import time
from collections.abc import Iterable

import msgspec

from agent.emitter import Emitter
from agent.probes.home import Home
from agent.probes.outcomes import Outcomes
from agent.probes.pending import PendingRequest, pending
from agent.rundir.atomic import write_atomic
from agent.rundir.events import RequestSeen
from agent.rundir.layout import RunDir
from agent.rundir.requests import (
    ACCEPTS_NAME,
    CLAIMED_SUFFIX,
    PENDING_SUFFIX,
    REQUEST_SCHEMA,
    Accepted,
    RefusedRequestError,
    Request,
    Stage,
    is_expired,
    open_inbox,
    read_outcome,
    read_request,
    refusal,
)

__all__ = ["STACKS", "Inbox", "PendingRequest"]

STACKS = "stacks"
"""The one kind that the agent carries out itself."""
_REFUSED_SUFFIX = ".refused"
_MAX_REASON_CHARS = 400
"""A reason may quote what a request holds."""


class Inbox:
    """The requests to one attempt."""

    def __init__(self, emitter: Emitter, run: RunDir, attempt: int) -> None:
        """Make it; `prepare` makes the directory."""
        self.accepted: frozenset[str] = frozenset({STACKS})
        self._emitter = emitter
        self._run = run
        self._attempt = attempt
        self._started_ns = time.time_ns()
        self._queue: tuple[Request, ...] = ()
        """Replaced whole by the agent's thread, read by the main thread."""
        self._has_accepted = False
        self._first_step: int | None = None
        self._taken: set[str] = set()
        self._claimed: set[str] = set()
        """Of those, which nobody has begun to carry out or told an outcome of."""
        self._outcomes = Outcomes(emitter, run, attempt)
        self._home = Home(run)
        self._refused_names: set[str] = set()
        self._is_closed = False

    def prepare(self) -> None:
        """Make the directory, and tell what an earlier attempt left undone.

        Raises:
            RefusedRequestError: `requests/` is not ours alone: nothing is obeyed.
            OSError: it cannot be made or read.
        """
        self._run.requests.mkdir(mode=0o700, exist_ok=True)
        inbox = open_inbox(self._run)
        try:
            (self._run.requests / "done").mkdir(mode=0o700, exist_ok=True)
            for name in _names(inbox, CLAIMED_SUFFIX):
                reason = (
                    "the trainer ended after it had taken this request and before it "
                    "told an outcome"
                )
                self._outcomes.tell_unfinished(inbox, name, Stage.INTERRUPTED, reason)
        finally:
            os.close(inbox)
        self._write_accepted()

    def accept(self, kinds: Iterable[str]) -> None:
        """Take requests of these kinds too.

        Raises:
            OSError: what is taken cannot be told; it is taken all the same.
        """
        self.accepted |= frozenset(kinds)
        self._has_accepted = True
        self._write_accepted()

    def look(self) -> None:
        """Read what is new; called from the agent's thread.

        What another run is asked, which lies there by now, is left to that.

        Raises:
            RefusedRequestError: `requests/` is not ours alone.
            OSError: it cannot be read, or still takes no outcome.
        """
        if not self._home.is_ours():
            self._queue = ()
            return
        try:
            inbox = open_inbox(self._run)
        except FileNotFoundError:
            self._queue = ()
            # Without telemetry the disk is gone: its mount point is left alone.
            if not self._is_closed and self._run.telemetry.is_dir():
                self._run.requests.mkdir(mode=0o700, exist_ok=True)
                self._write_accepted()
            return
        try:
            if not (self._run.requests / ACCEPTS_NAME).exists():
                self._write_accepted()
            names = _names(inbox, PENDING_SUFFIX)
            there = {name.removesuffix(PENDING_SUFFIX) for name in names}
            new = sorted(there - {request.id for request in self._queue})
            found = [self._meet(inbox, stem + PENDING_SUFFIX) for stem in new]
        finally:
            os.close(inbox)
        queue = [r for r in self._queue if r.id in there]
        queue += [request for request in found if request is not None]
        self._queue = tuple(sorted(queue, key=lambda r: (r.created_ns, r.id)))
        self._void_expired()
        self._outcomes.write_late()

    def head(self) -> PendingRequest | None:
        """Return the oldest request that waits for the trainer; a local read."""
        for request in self._queue:
            if request.kind == STACKS or request.id in self._taken:
                continue
            if not is_expired(request, time.time_ns()):
                return pending(request)
        return None

    def claim(self, request_id: str) -> bool:
        """Take a request, before anything is done about it; False: it is gone."""
        self._taken.add(request_id)
        folder = self._run.requests
        try:
            # `rename` has one winner, also against a thread that lets it expire.
            (folder / (request_id + PENDING_SUFFIX)).rename(
                folder / (request_id + CLAIMED_SUFFIX)
            )
        except OSError:
            return False
        self._claimed.add(request_id)
        return True

    def begin(self, request_id: str) -> None:
        """Note that the trainer carries it out, and tells the outcome when it is over.

        That may be after the agent was ended inside.
        """
        self._claimed.discard(request_id)

    def finish(
        self, request: PendingRequest, stage: Stage, error: str | None = None
    ) -> None:
        """Tell what came of a request, once. Never raises."""
        self._outcomes.tell(request, stage, error)
        self._claimed.discard(request.id)

    def close(self, why: str | None = None) -> None:
        """Tell what nobody will carry out any more. Never raises.

        `why`: what ended the run, if that was an error.
        """
        self._has_accepted = self._is_closed = True
        if not self._home.is_ours():
            return
        with contextlib.suppress(OSError, RefusedRequestError):
            self.look()
        for request in self._queue:
            if request.id not in self._taken and self.claim(request.id):
                reason = "the run ended before the trainer came to a safe point"
                self.finish(pending(request), Stage.REFUSED, reason)
        reason = "the trainer took it, and ended before it told what came of it"
        if why is not None:
            reason = f"{reason}: {why}"
        with contextlib.suppress(OSError, RefusedRequestError):
            self._tell_unfinished(sorted(self._claimed), Stage.FAILED, reason)
        with contextlib.suppress(OSError):
            (self._run.requests / ACCEPTS_NAME).unlink(missing_ok=True)

    def _tell_unfinished(self, ids: list[str], stage: Stage, reason: str) -> None:
        inbox = open_inbox(self._run)
        try:
            for request_id in ids:
                name = request_id + CLAIMED_SUFFIX
                self._outcomes.tell_unfinished(inbox, name, stage, reason)
        finally:
            os.close(inbox)

    def _meet(self, inbox: int, name: str) -> Request | None:
        """Read a file that was not seen before; return it if it shall be obeyed."""
        request = self._read_new(inbox, name)
        if request is None:
            return None
        now_ns = time.time_ns()
        reason = refusal(
            self._run,
            request,
            attempt=self._attempt,
            started_ns=self._started_ns,
            now_ns=now_ns,
        )
        reason = reason and reason[:_MAX_REASON_CHARS]
        stage = Stage.EXPIRED if is_expired(request, now_ns) else Stage.REFUSED
        if reason is None and request.kind not in self.accepted:
            if not self._has_spoken():
                return None  # it is met again at the next look
            taken = ", ".join(sorted(self.accepted))
            reason = f"this trainer takes no `{request.kind}`, it takes: {taken}"
        self._emitter.emit(
            RequestSeen, request=request.id, request_kind=request.kind, refusal=reason
        )
        if reason is None:
            return request
        if self.claim(request.id):
            self.finish(pending(request), stage, reason)
        return None

    def _read_new(self, inbox: int, name: str) -> Request | None:
        """Read a file as a request that was not taken yet, or put it aside."""
        if name in self._refused_names:
            return None
        try:
            request = read_request(inbox, name)
        except RefusedRequestError as error:
            self._put_aside(name, str(error))
            return None
        except FileNotFoundError:
            return None
        if request.id in self._taken or read_outcome(self._run, request.id):
            # It came twice and acts once.
            self._put_aside(name, "it was taken already")
            return None
        return request

    def _has_spoken(self) -> bool:
        """Whether it is known what the trainer takes.

        It has said so, or gone on a step without a word. Before that it may be
        loading what it resumes from, and a request waits.
        """
        if self._first_step is None:
            self._first_step = self._emitter.step
        return self._has_accepted or self._emitter.step != self._first_step

    def _put_aside(self, name: str, reason: str) -> None:
        """Refuse a file that is no request of ours; what it holds is not read."""
        self._refused_names.add(name)
        shown = ascii(name)[1:-1][:80]
        self._emitter.emit(
            RequestSeen, request=shown, request_kind="unknown", refusal=reason
        )
        aside = self._run.requests / "done" / (name + _REFUSED_SUFFIX)
        with contextlib.suppress(OSError):
            (self._run.requests / name).rename(aside)

    def _void_expired(self) -> None:
        now_ns = time.time_ns()
        for request in self._queue:
            late = is_expired(request, now_ns) and request.id not in self._taken
            if late and self.claim(request.id):
                reason = "it expired before the trainer came to a safe point"
                self.finish(pending(request), Stage.EXPIRED, reason)

    def _write_accepted(self) -> None:
        if self._is_closed or not self._home.is_ours():
            return
        accepted = Accepted(
            schema=REQUEST_SCHEMA,
            attempt=self._attempt,
            kinds=tuple(sorted(self.accepted)),
        )
        data = msgspec.json.encode(accepted) + b"\n"
        write_atomic(self._run.requests / ACCEPTS_NAME, data, mode=0o600)


def _names(inbox: int, suffix: str) -> list[str]:
    """Return the names in the very directory that was found to be ours."""
    names = os.listdir(inbox)
    return sorted(name for name in names if name.endswith(suffix))
