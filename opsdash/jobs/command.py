"""A command of the trainer's that runs beside the dashboard."""

from collections.abc import Callable
from typing import Any

from opsdash import units
from opsdash.operations.trainer_command import TrainerCommand
from opsdash.widgets.progress import JobState

Summary = Callable[[tuple[dict[str, Any], ...]], str]


class CommandJob:
    """One process; `say` puts what it printed into words."""

    def __init__(self, command: TrainerCommand, say: Summary) -> None:
        self.command = command
        self._say = say

    @property
    def title(self) -> str:
        """What it does."""
        return self.command.plan.title

    def cancel(self) -> None:
        """End the process."""
        self.command.cancel()

    def leave(self) -> None:
        """End the process: nobody would tell what came of it."""
        if not self.command.is_done:
            self.command.cancel()

    def state(self) -> JobState:
        """Return what a line shows of it now."""
        command = self.command
        if not command.is_done:
            total = command.total_bytes
            if not total:
                return JobState(self.title, detail="the trainer's command runs")
            done = command.done_bytes
            detail = f"{units.byte_size(done)} of {units.byte_size(total)}"
            return JobState(self.title, done / total, detail)
        if command.exit_code == 0:
            return JobState(self.title, outcome="ok", detail=self._say(command.results))
        if command.is_cancelled:
            return JobState(self.title, outcome="cancelled")
        summary = self._say(command.results) if command.results else ""
        detail = command.complaint or summary or command.error
        return JobState(self.title, outcome="failed", detail=detail)


def say_restored(results: tuple[dict[str, Any], ...]) -> str:
    """Return what `trainer restore` did."""
    for result in results:
        if "wrote" in result:
            return f"{result.get('num_tensors')} tensors in {result['wrote']}"
    return ""


def say_repaired(results: tuple[dict[str, Any], ...]) -> str:
    """Return what `trainer repair` did, and what it could not."""
    repaired = sum(_length(result, "repaired") for result in results)
    left = [place for result in results for place in result.get("left") or ()]
    text = f"{repaired} chunks mended" if repaired else "nothing was damaged"
    if left:
        text = f"{repaired} mended, {len(left)} left: {left[0]}"
    return text


def say_nothing(_results: tuple[dict[str, Any], ...]) -> str:
    """Return nothing: that it is done is all there is to say."""
    return ""


def _length(result: dict[str, Any], key: str) -> int:
    found = result.get(key)
    return len(found) if isinstance(found, list) else 0
