"""How long to wait before the next attempt to connect.

Exponential with jitter, so that the clients of a server that comes back do not
all come at once. Pure: the caller has the clock and the chance.
"""

import random
from dataclasses import dataclass, field

FIRST_S = 0.2
LONGEST_S = 10.0


@dataclass
class Backoff:
    """Counts failures in a row."""

    chance: random.Random = field(default_factory=random.Random)
    num_failures: int = 0

    def next_s(self) -> float:
        """Return the next pause: half to all of a doubling length."""
        longest = min(LONGEST_S, FIRST_S * 2.0 ** min(self.num_failures, 16))
        self.num_failures += 1
        return float(longest * self.chance.uniform(0.5, 1.0))

    def reset(self) -> None:
        """A connection worked."""
        self.num_failures = 0
