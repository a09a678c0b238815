"""Who is told what happens to checkpoints."""

from typing import Any, Protocol

from agent.rundir.events import Event


class Emit(Protocol):
    """`Agent.emit`: an event type and its own fields. Never raises."""

    def __call__(self, event_type: type[Event], /, **fields: Any) -> None:  # noqa: ANN401 - the event type checks them
        """Tell."""
        ...


def nobody(event_type: type[Event], /, **fields: Any) -> None:  # noqa: ANN401 - of any event
    """Tell nobody, where no agent is attached."""
    del event_type, fields
