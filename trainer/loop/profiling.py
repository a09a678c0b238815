"""A window of `torch.profiler` over a few steps, written into the run directory.

It costs time while it is open, and nothing before and after. What goes wrong in
it is said and forgotten: training goes on. A window that is to open later stays,
whatever is asked for before it.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from agent.probes.home import Home
from agent.rundir.errors import RunDirError
from trainer.console import say

_ROWS = 40


@dataclass
class ProfileWindow:
    """Opens before a step and closes some steps later, once."""

    folder: Path
    """Gets `<stem>.txt`, a table, and `<stem>.json`, a trace for Perfetto."""
    stem: str
    at: int | None
    """Completed steps before the first one that is profiled; None: never."""
    num_steps: int
    home: Home | None = None
    """Nothing is written once another run lies there; None: whatever lies there."""
    later: "ProfileWindow | None" = None
    """What was to open when this one came before it; its turn is next."""
    num_left: int = 0
    """Steps that the open window has still to see."""
    _open: profile | None = None

    @property
    def is_open(self) -> bool:
        """Whether steps are being profiled now."""
        return self._open is not None

    def is_taken(self, step: int) -> bool:
        """Whether steps are being profiled, or will be from the next one on."""
        return self.is_open or self.at == step

    @contextlib.contextmanager
    def around(self, step: int) -> Iterator[None]:
        """Surround the step that follows `step` completed ones."""
        if step == self.at and self._open is None:
            self.num_left = self.num_steps
            self._start()
        yield
        if self._open is not None:
            # Counted here: a skipped step or a rollback does not raise the number.
            self.num_left -= 1
            if self.num_left <= 0:
                self._stop()

    def close(self) -> None:
        """Write what was profiled so far: the run ends before the window does."""
        if self._open is not None:
            self._stop()

    def _start(self) -> None:
        activities = [ProfilerActivity.CPU]
        if torch.cuda.is_available():
            activities.append(ProfilerActivity.CUDA)
        try:
            self._open = profile(activities=activities)
            self._open.start()
        except RuntimeError as error:
            self._open = None
            say(f"the profiler cannot start: {error}")
            self._go_on()

    def _stop(self) -> None:
        profiler, self._open = self._open, None
        assert profiler is not None
        try:
            profiler.stop()
            if self.home is not None:
                self.home.look()
            self.folder.mkdir(parents=True, exist_ok=True)
            table = profiler.key_averages().table(
                sort_by="self_cpu_time_total", row_limit=_ROWS
            )
            (self.folder / f"{self.stem}.txt").write_text(table)
            profiler.export_chrome_trace(str(self.folder / f"{self.stem}.json"))
        except (RuntimeError, OSError, RunDirError) as error:
            say(f"the profile cannot be written: {error}")
        self._go_on()

    def _go_on(self) -> None:
        """Be the window that comes next, or none."""
        later, self.at = self.later, None
        if later is not None:
            self.stem, self.at, self.num_steps = later.stem, later.at, later.num_steps
            self.later = later.later
