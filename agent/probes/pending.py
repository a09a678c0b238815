"""A request as a trainer gets it: what is asked, and by whom."""

from dataclasses import dataclass, field
from typing import Any

from agent.rundir.requests import Request


@dataclass(frozen=True)
class PendingRequest:
    """What all ranks are asked to do."""

    id: str
    kind: str
    args: dict[str, Any] = field(default_factory=dict)
    by: str = ""
    created_ns: int = 0


def pending(request: Request) -> PendingRequest:
    """Return what the trainer is told of a request."""
    return PendingRequest(
        request.id, request.kind, request.args, request.by, request.created_ns
    )
