"""Event types whose common fields fill themselves in when an event is made.

Clocks, counter and constants are default factories, which msgspec calls from
C: an event costs half of what passing six more arguments would.
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
        self._fields: list[tuple[str, type, Callable[[], Any]]] = [
            ("time_ns", int, time.time_ns),
            ("mono_ns", int, time.monotonic_ns),
            ("node", str, node.__str__),
            ("seq", int, itertools.count().__next__),
        ]
        if rank is not None:
            self._fields.append(("rank", int, rank.__int__))

    def __missing__(self, event_type: type[Event]) -> Callable[..., Any]:
        """Derive a stamped type."""
        stamped = self[event_type] = msgspec.defstruct(
            event_type.__name__,
            [
                (name, of, msgspec.field(default_factory=factory))
                for name, of, factory in self._fields
            ],
            bases=(event_type,),
            frozen=True,
            kw_only=True,
            omit_defaults=True,
            tag_field="kind",
            tag=event_type.__struct_config__.tag,
        )
        return stamped
