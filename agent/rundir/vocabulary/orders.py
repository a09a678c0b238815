"""What became of requests to a running trainer.

A request is named by its id; its file says what was asked.
"""

from agent.rundir.vocabulary.event import Event


class RequestSeen(Event, frozen=True, tag_field="kind", tag="request_seen"):
    """The agent read a request and found it valid, or refused it."""

    request: str
    request_kind: str
    refusal: str | None = None


class RequestAcked(Event, frozen=True, tag_field="kind", tag="request_acked"):
    """This rank has begun to carry out a request that all agreed on."""

    request: str
    request_kind: str


class RequestDone(Event, frozen=True, tag_field="kind", tag="request_done"):
    """A request's outcome."""

    request: str
    request_kind: str
    error: str | None = None
