"""The garbage collector at the dashboard's own rhythm: not while somebody types.

A pass over everything took 20 to 50 ms within two minutes of a busy run (5,000
events a second), and a key that falls on it waits for so long. What Textual leaves
behind in cycles is a megabyte in ten seconds, so passes can wait for a pause.
"""

import gc
import time
from collections.abc import Callable

_EVERY_S = 10.0
_PAUSE_S = 1.0
"""Without a key for so long: whoever typed is reading."""
_LATEST_S = 60.0
"""A pass is made after so long even so: memory is bounded too."""
_YOUNG, _MIDDLE, _NEVER = 1_000, 4, 1_000_000
"""Objects and passes after which the collector looks by itself: at 4,000 objects at
once, in a millisecond or two, and never at all of them."""


class Collector:
    """Decides when to make a pass over everything."""

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        collect: Callable[[], object] = gc.collect,
    ) -> None:
        """Make it; nothing was typed yet."""
        self._clock, self._collect = clock, collect
        self._typed_s = self._collected_s = clock()

    def begin(self) -> None:
        """Take over; what is imported by now stays, and is never looked at again."""
        gc.freeze()
        gc.set_threshold(_YOUNG, _MIDDLE, _NEVER)

    def note_key(self) -> None:
        """Somebody types."""
        self._typed_s = self._clock()

    def look(self) -> None:
        """Make a pass if one is due and nobody types, or it is overdue."""
        now = self._clock()
        since_s = now - self._collected_s
        is_typing = now - self._typed_s < _PAUSE_S
        if since_s >= (_LATEST_S if is_typing else _EVERY_S):
            self._collect()
            self._collected_s = now
