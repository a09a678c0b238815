"""Lines for whoever watches the trainer's own output: rank 0 writes them."""

import contextlib
import sys
import time
from dataclasses import dataclass, field

from agent.rundir.errors import RunDirError


def say(text: str) -> None:
    """Write one line to standard output now; a reader that left is no error."""
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()


def complain(error: RunDirError) -> None:
    """Write an error and what helps to standard error."""
    lines = [f"error: {error}"]
    if error.hint:
        lines.append(f"hint: {error.hint}")
    with contextlib.suppress(OSError):
        sys.stderr.write("\n".join(lines) + "\n")
        sys.stderr.flush()


@dataclass
class Pace:
    """Tokens per second between two lines."""

    num_tokens: int = 0
    since_s: float = field(default_factory=time.monotonic)

    def add(self, num_tokens: int) -> None:
        """Count the tokens of a step."""
        self.num_tokens += num_tokens

    def take(self) -> float:
        """Return tokens per second since the last call, and begin anew."""
        now = time.monotonic()
        rate = self.num_tokens / max(1e-9, now - self.since_s)
        self.num_tokens, self.since_s = 0, now
        return rate
