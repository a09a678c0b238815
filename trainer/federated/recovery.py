"""Go on from an older round where the server's newest one is damaged.

Only where nobody else has what is lacking: a repair brings the newest one back.
Numbers never go back: the older round is committed again under a new one.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from agent.rundir.chunks.errors import ChunkError, DamagedStoreError
from trainer.federated.committed import Committed

Damage = ChunkError | DamagedStoreError
"""A chunk of a round is not what it was, or the round's rows are not."""
DAMAGE = (ChunkError, DamagedStoreError)


@dataclass(frozen=True)
class Recovery:
    """The newest round could not be read: an older one took its place."""

    damages: tuple[Damage, ...]
    """Why the rounds above it were passed over; the newest first."""
    done: Committed
    source_round: int
    began_ns: int
    """Monotonic."""


def recover(
    damage: Damage, older_rounds: Iterable[int], adopt: Callable[[int], Committed]
) -> Recovery:
    """Go on from the newest older round that is whole.

    Args:
        damage: What is wrong with the newest one.
        older_rounds: What else the store holds, from the newest on.
        adopt: Commits one of them again.

    Raises:
        ChunkError: another node has what is lacking: a repair brings the
            newest round back.
        RunDirError: there is no round that is whole.
    """
    if isinstance(damage, ChunkError) and damage.elsewhere:
        raise damage
    damages = [damage]
    for source_round in older_rounds:
        began_ns = time.monotonic_ns()
        try:
            done = adopt(source_round)
        except DAMAGE as error:
            damages.append(error)
            continue
        return Recovery(tuple(damages), done, source_round, began_ns)
    raise damage
