"""What was asked of the running trainer, and how far each request has come.

From events alone, so that whoever may read the telemetry sees it, also where
`requests/` is closed to him.
"""

from collections import OrderedDict
from typing import NamedTuple

from agent.rundir.events import RequestAcked, RequestDone, RequestSeen
from opsdash.projections.batch import Origin
from opsdash.projections.plausible import clip

_MAX_REQUESTS = 1_000
_MAX_NODES = 1_024


class RequestRow(NamedTuple):
    """One request, as the processes of the run tell it."""

    id: str
    kind: str
    attempt: int
    time_ns: int
    """When it was first told, the writer's wall clock, Unix ns."""
    refusal: str | None
    """Why it is not carried out; None: it is, or nobody said."""
    acked: tuple[str, ...]
    """Processes that have begun to carry it out."""
    is_done: bool
    error: str | None
    """Why it failed; None: it did not."""

    @property
    def is_over(self) -> bool:
        """Whether nothing more will be told of it."""
        return self.is_done or self.refusal is not None


class Requests:
    """Folds `request_seen`, `request_acked` and `request_done`."""

    def __init__(self) -> None:
        self._rows: OrderedDict[str, RequestRow] = OrderedDict()

    def on_seen(self, origin: Origin, event: RequestSeen) -> None:
        """Take in that rank 0's agent read a request, and whether it refuses."""
        row = self._row(origin, event)
        refusal = clip(event.refusal) if event.refusal else row.refusal
        self._rows[row.id] = row._replace(refusal=refusal)

    def on_acked(self, origin: Origin, event: RequestAcked) -> None:
        """Take in that a process has begun."""
        row = self._row(origin, event)
        if origin.stem not in row.acked and len(row.acked) < _MAX_NODES:
            row = row._replace(acked=(*row.acked, origin.stem))
        self._rows[row.id] = row

    def on_done(self, origin: Origin, event: RequestDone) -> None:
        """Take in an outcome."""
        row = self._row(origin, event)
        error = clip(event.error) if event.error else None
        self._rows[row.id] = row._replace(is_done=True, error=error)

    def get(self, request_id: str) -> RequestRow | None:
        """Return one request; None: nobody told of it yet."""
        return self._rows.get(request_id)

    def rows(self) -> list[RequestRow]:
        """Return the requests, newest first."""
        return list(reversed(self._rows.values()))

    def is_paused(self, attempt: int) -> bool:
        """Whether an attempt was last asked to pause, not to go on, and has done it."""
        told = (
            row.kind
            for row in self.rows()
            if row.kind in ("pause", "continue")
            and row.attempt == attempt
            and row.is_done
            and row.error is None
        )
        return next(told, None) == "pause"

    def _row(
        self, origin: Origin, event: RequestSeen | RequestAcked | RequestDone
    ) -> RequestRow:
        request_id = clip(event.request, 80)
        found = self._rows.get(request_id)
        if found is not None:
            return found
        if len(self._rows) >= _MAX_REQUESTS:
            self._rows.popitem(last=False)
        return RequestRow(
            id=request_id,
            kind=clip(event.request_kind, 40),
            attempt=origin.attempt,
            time_ns=event.time_ns,
            refusal=None,
            acked=(),
            is_done=False,
            error=None,
        )
