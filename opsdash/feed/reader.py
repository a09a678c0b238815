"""One pass over a run directory: what is new, as a frozen batch.

A `RunReader` is a set of cursors, not a thread: `read` returns at once and
never raises for what the disk holds. Whoever owns the pace calls it: the feed's
thread under a screen, a plain loop under a command.
"""

import time
from collections.abc import Callable

from agent.rundir.events import RunStarted
from agent.rundir.layout import RunDir
from opsdash.feed.cursor import Clocks
from opsdash.feed.directory import DirectoryReader
from opsdash.feed.pasts import FULL_BYTES
from opsdash.feed.telemetry import Telemetry
from opsdash.projections.batch import Batch, Directory, Lines, Problem

_LOOK_NS = 250_000_000
"""Between two looks at what is not telemetry."""
_DISCOVER_NS = 1_000_000_000
_THOROUGH_NS = 10_000_000_000
_FIRST_EVENTS = 4
"""Of a piece: a process says first who it is."""


def system_clocks() -> Clocks:
    """Return this host's clocks."""
    return Clocks(time.monotonic_ns(), time.time_ns())


class RunReader:
    """Everything that is read of one run."""

    def __init__(
        self,
        run: RunDir,
        *,
        clocks: Callable[[], Clocks] = system_clocks,
        full_bytes: int = FULL_BYTES,
    ) -> None:
        """Prepare; nothing is read yet.

        Args:
            run: The run.
            clocks: This host's, unless a test moves them.
            full_bytes: Of an attempt whose logs together have more only the
                newest part is read in full, and thinned what is older.
        """
        self.run = run
        self.is_polling = False
        """Told by whoever paces the reading; passed on with each batch."""
        self._clocks = clocks
        self._telemetry = Telemetry(run, full_bytes=full_bytes)
        self._directory = DirectoryReader(run)
        self._facts = Directory(path=str(run.path))
        self._looked_ns: int | None = None
        self._discovered_ns: int | None = None
        self._thorough_ns: int | None = None

    def read(self) -> Batch:
        """Return what is new since the last call.

        At most PIECE_BYTES of each file: call again while `backlog_bytes` is
        not 0. Of long logs the newest lines come first, as a preview; then
        their past, thinned; then the newest part, all of it. An idle pass
        costs one `stat` per file of the newest attempt.
        """
        clocks = self._clocks()
        is_thorough = _is_due(self._thorough_ns, clocks.mono_ns, _THOROUGH_NS)
        if is_thorough:
            self._thorough_ns = clocks.mono_ns
        if is_thorough or _is_due(self._discovered_ns, clocks.mono_ns, _DISCOVER_NS):
            self._discovered_ns = clocks.mono_ns
            self._telemetry.discover(clocks, is_thorough=is_thorough)
        preview = self._telemetry.read_preview(clocks)
        lines = preview or self._telemetry.read_turn(clocks, with_old=is_thorough)
        is_behind = self._telemetry.backlog_bytes > 0
        if lines or is_behind or self._discovered_ns == clocks.mono_ns:
            self._telemetry.take_stock(clocks)
        if self._note_starts(lines) or _is_due(
            self._looked_ns, clocks.mono_ns, _LOOK_NS
        ):
            self._looked_ns = clocks.mono_ns
            newest = self._telemetry.newest_attempt
            self._facts = self._directory.read(clocks, newest)
        return Batch(
            now_mono_ns=clocks.mono_ns,
            now_ns=clocks.time_ns,
            directory=self._facts,
            lines=tuple(lines),
            backlog_bytes=self._telemetry.backlog_bytes,
            read_bytes=self._telemetry.read_bytes,
            num_overlong=self._telemetry.num_overlong,
            problems=self._telemetry.problems,
            is_preview=bool(preview),
            is_polling=self.is_polling,
        )

    def blind(self, problem: Problem) -> Batch:
        """Return a batch that says why nothing can be read now."""
        clocks = self._clocks()
        return Batch(
            now_mono_ns=clocks.mono_ns,
            now_ns=clocks.time_ns,
            directory=self._facts,
            read_bytes=self._telemetry.read_bytes,
            problems=(problem,),
            is_blind=True,
            is_polling=self.is_polling,
        )

    def look_for_files(self) -> None:
        """Look for new files at the next pass, because something was created."""
        self._discovered_ns = self._looked_ns = None

    def _note_starts(self, lines: list[Lines]) -> bool:
        """Remember processes that began; whether there were any."""
        num_started = 0
        for group in lines:
            for event in group.events[:_FIRST_EVENTS]:
                if isinstance(event, RunStarted):
                    origin = group.origin
                    self._directory.note_started(origin.attempt, origin.stem, event)
                    num_started += 1
        return num_started > 0


def _is_due(last_ns: int | None, now_ns: int, every_ns: int) -> bool:
    return last_ns is None or now_ns - last_ns >= every_ns
