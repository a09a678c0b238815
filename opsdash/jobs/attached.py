"""One run that is attached: what reads it, what was folded, what is done to it.

The app shows it and gives it up when another run is chosen; nothing here knows
a widget but the lines of jobs.
"""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from agent.rundir.layout import RunDir
from agent.rundir.verify.verdict import Verdict
from opsdash.feed.cursor import Clocks
from opsdash.feed.memory import map_large_blocks
from opsdash.feed.reader import RunReader, system_clocks
from opsdash.feed.thread import Feed
from opsdash.jobs.board import JobBoard
from opsdash.operations.record import OperationLog
from opsdash.projections.run import Run
from opsdash.screens.pane import View

if TYPE_CHECKING:
    from opsdash.operations.standing import Standing

_SHOW_S = 0.24
"""From one picture of something new to the next, however much comes."""
_IDLE_SHOW_S = 1.0
"""Without news the screen is shown anew once a second: ages go on."""


class Attached:
    """A run directory under a screen."""

    def __init__(
        self,
        run: RunDir,
        *,
        is_readonly: bool = False,
        clocks: Callable[[], Clocks] = system_clocks,
    ) -> None:
        """Prepare; nothing is read before `start`."""
        self.run = run
        self.folded = Run()
        self.jobs = JobBoard()
        self.is_readonly = is_readonly
        self.log = None if is_readonly else OperationLog(run)
        self.store_verdicts: dict[str, Verdict] = {}
        """What was found in chunk stores, by `chunks/<node>`."""
        self._clocks = clocks
        self._feed = Feed(RunReader(run, clocks=clocks))
        self._has_news = False
        self._shown_s = self._news_shown_s = 0.0
        self._shown = ""
        """Which part of the history the last picture was of."""

    def start(self) -> None:
        """Begin to read."""
        map_large_blocks()
        self._feed.start()

    def stop(self) -> None:
        """Stop reading; give up what makes no sense without a screen."""
        self.jobs.leave()
        self._feed.stop()

    def take(self) -> None:
        """Fold what was read since the last call."""
        for batch in self._feed.take():
            self.folded.fold(batch)
            self._has_news = self._has_news or bool(batch.lines)

    @property
    def is_behind(self) -> bool:
        """Whether more lies on disk, as far as is known, than was folded."""
        return not self.folded.is_caught_up

    @property
    def is_due(self) -> bool:
        """Whether there is something to show.

        The first news, and that all of the past is known, wait for nothing.
        """
        if self._part() != self._shown:
            return True
        now_s = time.monotonic()
        if self._has_news and now_s - self._news_shown_s >= _SHOW_S:
            return True
        return now_s - self._shown_s >= _IDLE_SHOW_S

    def view(self) -> View:
        """Return this moment of the run."""
        self._shown_s = time.monotonic()
        if self._has_news:
            self._has_news, self._news_shown_s = False, self._shown_s
        self._shown = self._part()
        now = self._clocks()
        verdict = self.folded.verdict(now.mono_ns, now.time_ns)
        stores = dict(self.store_verdicts)
        return View(self.folded, now.mono_ns, now.time_ns, verdict, stores)

    def notes(self) -> list[str]:
        """Return what the screen says about reading."""
        notes = []
        if not self.folded.is_caught_up:
            notes.append(f"reading {self.folded.read_frac:.0%}")
        if self.folded.is_polling:
            notes.append("polling")
        if self.is_readonly:
            notes.append("read only")
        if self.log is not None and self.log.problem is not None:
            notes.append(f"operations/ is not written: {self.log.problem}")
        return notes

    def standing(self) -> "Standing":
        """Return what a plan is told of the run."""
        # Loaded for the first plan: no screen needs it.
        from opsdash.operations.standing import standing_of  # noqa: PLC0415 - see above

        now = self._clocks()
        return standing_of(self.folded, now.mono_ns, now.time_ns)

    @property
    def is_paused(self) -> bool:
        """Whether the trainer says that it stands still because it was asked to."""
        return self.folded.is_paused(self._clocks().mono_ns)

    def _part(self) -> str:
        if self.folded.num_batches == 0:
            return "nothing"
        return "a part" if self.is_behind else "everything"
