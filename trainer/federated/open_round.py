"""The round that is open: whom it asks, who has answered, how it ends.

Part of the machine of rounds: no I/O, no clock.
"""

import math
import random
from collections.abc import Iterable
from dataclasses import dataclass, field

from trainer.federated.terms import Abandon, Close, RoundRules


@dataclass
class OpenRound:
    """The round that is open or being closed. Times are monotonic."""

    round_num: int
    selected: frozenset[str]
    """Clients that were asked."""
    opened_ns: int
    deadline_ns: int
    delivered: set[str] = field(default_factory=set)
    declined: set[str] = field(default_factory=set)
    """Asked, and known to give nothing."""

    @property
    def waited_for(self) -> frozenset[str]:
        """Who may still deliver."""
        return self.selected - self.delivered - self.declined

    def close(self, reason: str, now_ns: int) -> Close:
        """Return what is to be done with what was delivered."""
        return Close(
            round_num=self.round_num,
            members=tuple(sorted(self.delivered)),
            num_selected=len(self.selected),
            reason=reason,
            opened_ns=self.opened_ns,
            deadline_ns=self.deadline_ns,
            closed_ns=now_ns,
        )

    def abandon(self, reason: str) -> Abandon:
        """Return what is to be told where nothing that was delivered counts."""
        return Abandon(self.round_num, reason, len(self.selected))


def choose_clients(
    present: Iterable[str], rules: RoundRules, round_num: int, num_tries: int
) -> tuple[str, ...]:
    """Choose by round, try and seed alone: a replay asks the same clients.

    Another try asks others: those of the last one may never have anything.

    Args:
        present: Clients with a session.
        rules: How many are asked.
        round_num: The round that is about to open.
        num_tries: How often it was opened in vain.
    """
    known = sorted(present)
    num_asked = max(rules.min_clients, math.ceil(rules.client_frac * len(known)))
    what = f"{rules.seed}/{round_num}"
    if num_tries:
        what += f"/{num_tries}"
    choice = random.Random(what)  # noqa: S311 - a reproducible choice, not a secret
    return tuple(sorted(choice.sample(known, num_asked)))
