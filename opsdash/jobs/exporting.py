"""Events that are written to a file by a thread of their own.

The log belongs to the screen's thread, which hands over a few thousand rows at
each look; their lines are read, and the file is written, beside it.
"""

import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Generic, TypeVar

from agent.rundir.errors import RunDirError
from opsdash import units
from opsdash.operations.export import EventExport, ExportedEvent, check_ending
from opsdash.widgets.progress import JobState

Row = TypeVar("Row")
_SLICE = 1_000
_MAX_AHEAD = 10
"""Slices that wait to be written."""
_PATIENCE_S = 0.02
"""Of each look: a key waits no longer."""
_LEAVE_S = 1.0
"""A half written file may take so long to be removed when the dashboard goes."""


class ExportJob(Generic[Row]):
    """One export."""

    def __init__(
        self,
        path: Path,
        numbers: Sequence[int],
        row_of: Callable[[int], Row | None],
        told: Callable[[Row], ExportedEvent],
    ) -> None:
        """Begin to write.

        Args:
            path: Ends in `.jsonl` or `.csv`; it must not exist.
            numbers: Of the events.
            row_of: Returns what the log has of one; None: it was dropped meanwhile.
                Called in the screen's thread.
            told: Reads the rest of it; called in another thread.

        Raises:
            RunDirError: the path has another ending.
        """
        check_ending(path)
        self._path, self._num_events = path, len(numbers)
        self._rest: Iterator[int] = iter(numbers)
        self._row_of = row_of
        self._slices: queue.Queue[list[Row] | None] = queue.Queue()
        self._is_handed_over = False
        self._num_done = 0
        self._error = ""
        self._is_discarded = False
        self._stopping = threading.Event()
        self._thread = threading.Thread(
            target=self._work, args=(told,), name="opsdash-export", daemon=True
        )
        self._thread.start()

    @property
    def title(self) -> str:
        """What is written where."""
        return f"export events to {self._path}"

    def cancel(self) -> None:
        """Give up soon."""
        if self._thread.is_alive():
            self._stopping.set()
            self._slices.put(None)

    def leave(self) -> None:
        """Give up: nobody writes on."""
        self.cancel()
        self._thread.join(_LEAVE_S)

    def state(self) -> JobState:
        """Hand over some more; return what a line shows of it."""
        is_written = not self._thread.is_alive()
        if not is_written:
            self._hand_over()
        detail = f"{units.count(self._num_done)} events"
        if self._error:
            return JobState(self.title, outcome="failed", detail=self._error)
        if self._is_discarded:
            return JobState(self.title, outcome="cancelled")
        if is_written:
            return JobState(self.title, outcome="ok", detail=detail)
        return JobState(self.title, self._num_done / max(1, self._num_events), detail)

    def _hand_over(self) -> None:
        until_s = time.monotonic() + _PATIENCE_S
        while not self._is_handed_over and self._slices.qsize() < _MAX_AHEAD:
            numbers = list(islice(self._rest, _SLICE))
            rows = (self._row_of(number) for number in numbers)
            self._slices.put([row for row in rows if row is not None])
            if len(numbers) < _SLICE:
                self._is_handed_over = True
                self._slices.put(None)
            if time.monotonic() >= until_s:
                return

    def _work(self, told: Callable[[Row], ExportedEvent]) -> None:
        try:
            export = EventExport(self._path)
        except RunDirError as error:
            self._error = str(error)
            return
        try:
            self._write(export, map(told, self._rows()))
        except Exception as error:  # noqa: BLE001 - a thread that ends without a word is never seen
            text = error.strerror if isinstance(error, OSError) else None
            export.discard()
            # Told last: whoever sees that it failed finds no half file.
            self._error = text or f"{type(error).__name__}: {error}"

    def _write(self, export: EventExport, events: Iterable[ExportedEvent]) -> None:
        for event in events:
            export.write(event)
            self._num_done += 1
        if self._stopping.is_set():
            export.discard()
            self._is_discarded = True
        else:
            export.finish()

    def _rows(self) -> Iterator[Row]:
        while (rows := self._slices.get()) is not None:
            for row in rows:
                if self._stopping.is_set():
                    return
                yield row
