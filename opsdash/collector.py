"""The garbage collector at the dashboard's own rhythm: not while somebody types.

A pass over everything took 20 to 50 ms within two minutes of a busy run (5,000
events a second), and a key that falls on it waits for so long. What Textual leaves
behind in cycles is a megabyte in ten seconds, so passes can wait for a pause; but
somebody who goes through panes, help and palette leaves twenty, and a pass that came
late gives the room back to nobody.
"""

import gc
import math
import time
from collections.abc import Callable

_EVERY_S = 10.0
_PAUSE_S = 1.0
"""Without a key for so long: whoever typed is reading."""
_LATEST_S = 60.0
"""A pass is made after so long even so: memory is bounded too."""
_SHORT_PAUSE_S, _MUCH, _TOO_MUCH = 0.25, 40, 100
"""So many passes over the young ones since the last over everything, some 240,000 and
600,000 objects, make a short pause do, and none be waited for."""
_YOUNG, _MIDDLE, _NEVER = 1_000, 4, 1_000_000
"""Objects and passes after which the collector looks by itself: at 4,000 objects at
once, in a millisecond or two, and never at all of them."""


class Collector:
    """Decides when to make a pass over everything."""

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        collect: Callable[[], object] = gc.collect,
        num_passes: Callable[[], int] = lambda: gc.get_count()[2],
    ) -> None:
        """Make it; nothing was typed yet.

        Args:
            clock: Monotonic, seconds.
            collect: Makes a pass over everything.
            num_passes: Returns how many over the young ones were made since the last.
        """
        self._clock, self._collect, self._num_passes = clock, collect, num_passes
        self._typed_s, self._collected_s = -math.inf, clock()

    def begin(self) -> None:
        """Take over; what is imported by now stays, and is never looked at again."""
        gc.freeze()
        gc.set_threshold(_YOUNG, _MIDDLE, _NEVER)

    def note_key(self) -> None:
        """Somebody types."""
        self._typed_s = self._clock()

    @property
    def quiet_s(self) -> float:
        """Since the last key, seconds."""
        return self._clock() - self._typed_s

    def look(self) -> None:
        """Make a pass if one is due and nobody types, or it is overdue."""
        now = self._clock()
        if self._is_due(now - self._collected_s, self.quiet_s):
            self._collect()
            self._collected_s = now

    def _is_due(self, since_s: float, quiet_s: float) -> bool:
        if since_s >= _LATEST_S or (since_s >= _EVERY_S and quiet_s >= _PAUSE_S):
            return True
        num_passes = self._num_passes()
        return num_passes >= _TOO_MUCH or (
            num_passes >= _MUCH and quiet_s >= _SHORT_PAUSE_S
        )
