"""What a trainer does with requests: say which it takes, ask, do, tell.

On rank 0 this stands before the inbox; on other ranks there is none, and a
request comes from rank 0 by agreement. Telling never raises; what the trainer
does inside `carried_out` raises as it would anywhere else.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from agent.emitter import Emitter
from agent.probes.inbox import Inbox
from agent.probes.pending import PendingRequest
from agent.probes.wording import in_plain_words
from agent.rundir.events import RequestAcked
from agent.rundir.request_args import KINDS
from agent.rundir.requests import Stage


class Obedience:
    """The requests of one process."""

    def __init__(self, emitter: Emitter, inbox: Inbox | None) -> None:
        """Stand before an inbox; None: this process has none."""
        self._emitter = emitter
        self._inbox = inbox
        self._kinds: frozenset[str] = frozenset()

    def accept(self, kinds: tuple[str, ...]) -> None:
        """Take requests of these kinds.

        Raises:
            ValueError: there is no such kind.
        """
        unknown = sorted(set(kinds) - KINDS.keys())
        if unknown:
            raise ValueError(
                f"`{unknown[0]}` is no kind of request: {', '.join(KINDS)}"
            )
        self._kinds |= frozenset(kinds)
        if self._inbox is not None:
            try:
                self._inbox.accept(kinds)
            except OSError as error:
                self._emitter.drop(f"requests: {error}")

    def head(self) -> PendingRequest | None:
        """Return the oldest request that waits; a local read."""
        return self._inbox.head() if self._inbox is not None else None

    def claim(self, request: PendingRequest) -> bool:
        """Take a request before anything is done about it; False: it is gone."""
        return self._inbox is not None and self._inbox.claim(request.id)

    def can_do(self, request: PendingRequest) -> bool:
        """Whether this process takes requests of that kind."""
        return request.kind in self._kinds

    def refuse(self, request: PendingRequest, reason: str) -> None:
        """Tell that a claimed request is not carried out."""
        self._finish(request, Stage.REFUSED, reason)

    def close(self, why: str | None = None) -> None:
        """Take no more requests; of those that wait, or were only taken, that is told.

        `why`: what ended the run, if that was an error.
        """
        if self._inbox is not None:
            self._inbox.close(why)

    @contextmanager
    def carried_out(self, request: PendingRequest) -> Iterator[None]:
        """Tell that a request is begun, and how it ended."""
        if self._inbox is not None:
            self._inbox.begin(request.id)
        try:
            self._emitter.emit(
                RequestAcked, request=request.id, request_kind=request.kind
            )
            yield
        except BaseException as error:
            # What the world lacks is said in words; a bug names its exception.
            self._finish(request, Stage.FAILED, in_plain_words(error))
            raise
        self._finish(request, Stage.DONE)

    def _finish(
        self, request: PendingRequest, stage: Stage, error: str | None = None
    ) -> None:
        if self._inbox is not None:
            self._inbox.finish(request, stage, error)
