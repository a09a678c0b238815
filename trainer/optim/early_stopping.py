"""Know the best held-out loss, and when it has not improved for long enough.

Pure bookkeeping on numbers that are equal on all ranks, so that all ranks come
to the same verdict without asking each other.
"""

import math
from dataclasses import dataclass
from typing import Any


@dataclass
class BestLoss:
    """The best held-out loss so far, and how long ago that was."""

    patience: int = 0
    """Evaluations without a better loss before it is enough; 0: never."""
    loss: float = math.inf
    step: int | None = None
    """Where the best was found."""
    num_worse: int = 0
    """Evaluations since then."""

    def observe(self, loss: float, step: int) -> bool:
        """Take in an evaluation; True: it is the best so far. NaN never is."""
        if loss < self.loss:
            self.loss, self.step, self.num_worse = loss, step, 0
            return True
        self.num_worse += 1
        return False

    def reset(self) -> None:
        """Forget the best, as after loading it again."""
        self.loss, self.num_worse = math.inf, 0

    @property
    def is_enough(self) -> bool:
        """Whether the run may end."""
        return 0 < self.patience <= self.num_worse

    def state_dict(self) -> dict[str, Any]:
        """Return plain types; an infinite loss is None."""
        loss = None if math.isinf(self.loss) else self.loss
        return {"loss": loss, "step": self.step, "num_worse": self.num_worse}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where the saved one was."""
        self.loss = math.inf if state["loss"] is None else float(state["loss"])
        self.step, self.num_worse = state["step"], int(state["num_worse"])
