"""Event types whose common fields fill themselves in when an event is made.

Clocks and counter are default factories, which msgspec calls from C: an event
costs half of what passing six more arguments would. A lean type has only the
fields that a hot loop gives, beside those that every event carries.
"""

import itertools
import time
from collections.abc import Callable
from typing import Any

import msgspec

from agent.rundir.events import Event


class Stamps(dict[type[Event], Callable[..., Any]]):
    """The stamped types of one node, by event type; derived when first asked for.

    All of them count the same sequence, from 0.
    """

    def __init__(self, *, node: str, rank: int | None) -> None:
        """Make none yet."""
        super().__init__()
        self._moving: list[tuple[str, type, Any]] = [
            ("time_ns", int, _made_by(time.time_ns)),
            ("mono_ns", int, _made_by(time.monotonic_ns)),
            ("seq", int, _made_by(itertools.count().__next__)),
        ]
        self._fixed: list[tuple[str, type, Any]] = [("node", str, node)]
        if rank is not None:
            self._fixed.append(("rank", int, rank))

    def __missing__(self, event_type: type[Event]) -> Callable[..., Any]:
        """Derive a stamped type."""
        # A plain default would be left out of the line, as all others are.
        fixed = [
            (name, of, _made_by(itertools.repeat(value).__next__))
            for name, of, value in self._fixed
        ]
        stamped = self[event_type] = msgspec.defstruct(
            event_type.__name__,
            [*self._moving, *fixed],
            bases=(event_type,),
            frozen=True,
            kw_only=True,
            omit_defaults=True,
            tag_field="kind",
            tag=event_type.__struct_config__.tag,
        )
        return stamped

    def lean(
        self, event_type: type[Event], names: tuple[str, ...]
    ) -> Callable[..., Any]:
        """Derive a type of so many of an event's fields, all of which must be given.

        What it writes is read back as an event of `event_type`.

        Raises:
            ValueError: the event has no such field, or it fills itself in.
        """
        own = {name: (name, of, how) for name, of, how in self._moving + self._fixed}
        given = {
            field.name: (field.name, field.type)
            for field in msgspec.structs.fields(event_type)
            if field.name not in own
        }
        for name in names:
            if name not in given:
                raise ValueError(
                    f"`{name}` is no field that a `{event_type.__name__}` is given"
                )
        wanted = own | {name: given[name] for name in names}
        return msgspec.defstruct(
            event_type.__name__,
            # In the order in which a reader expects them: it is quicker so.
            [wanted[n] for n in event_type.__struct_fields__ if n in wanted],
            frozen=True,
            kw_only=True,
            gc=False,
            tag_field="kind",
            tag=event_type.__struct_config__.tag,
        )


def _made_by(factory: Callable[[], Any]) -> Any:  # noqa: ANN401 - as msgspec types it
    return msgspec.field(default_factory=factory)
