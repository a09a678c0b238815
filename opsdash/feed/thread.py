"""The thread that reads a run while somebody watches.

It reads, and hands frozen batches over through a deque; it folds nothing and
knows no screen. While lines come it looks every 75 to 250 ms, because one
`stat` per file is cheaper than a callback per change; in silence watchdog wakes
it, and once a second it looks anyway: NFS, Lustre and FUSE tell of no changes.
"""

import contextlib
import threading
import time
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING

from opsdash.feed.mounts import tells_of_changes
from opsdash.feed.reader import RunReader
from opsdash.projections.batch import Batch, Problem

if TYPE_CHECKING:
    from watchdog.observers.api import BaseObserver

FAST_S, SLOW_S, IDLE_S = 0.075, 0.25, 1.0
"""Between two passes: while lines come, shortly after, in silence."""
_FAST_FOR_S = 2.0
_SLOW_FOR_S = 10.0
_MAX_WAITING = 4
"""Batches that nobody took yet, megabytes each of many files; then reading waits."""
FOLD_S = 0.02
"""Of each call of `take`: keys wait for no more than one batch longer."""
_STOP_S = 5.0


class Feed:
    """Reads one run in its own thread until it is stopped."""

    def __init__(self, reader: RunReader, *, is_watching: bool = True) -> None:
        """Prepare; `is_watching=False` never asks the file system for changes."""
        self._reader = reader
        self._is_watching = is_watching
        self._batches: deque[Batch] = deque()
        self._taken = threading.Event()
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._observer: BaseObserver | None = None
        self._news_s = time.monotonic()
        self._thread = threading.Thread(
            target=self._run, name="opsdash-feed", daemon=True
        )

    def start(self) -> None:
        """Begin to read."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread; a read that hangs on a dead mount is left behind."""
        self._stopping.set()
        self._wake.set()
        self._taken.set()
        if self._thread.ident is not None:
            self._thread.join(_STOP_S)

    @property
    def is_alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def take(self, for_s: float = FOLD_S) -> Iterator[Batch]:
        """Yield the next batches, oldest first, to fold one by one.

        A screen calls it ten times a second, and again at once while it is
        behind. When the time is over, folding included, the rest of a long
        history waits for the next call, so that keys are answered; after a
        preview too, so that it is shown.

        Args:
            for_s: At least one batch is yielded, and no more after so long.
        """
        until_s = time.monotonic() + for_s
        while self._batches:
            batch = self._batches.popleft()
            self._taken.set()
            yield batch
            if batch.is_preview or time.monotonic() >= until_s:
                return

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                pause_s = self._pass()
                if pause_s and self._wake.wait(pause_s):
                    self._wake.clear()
                    self._reader.look_for_files()
        finally:
            self._stop_watching()

    def _pass(self) -> float:
        """Read once; return how long to wait before the next pass, seconds."""
        try:
            batch = self._reader.read()
        except Exception as error:  # noqa: BLE001 - a thread that ends leaves a frozen green screen
            self._put(self._blind(error))
            return IDLE_S
        self._put(batch)
        if batch.backlog_bytes:
            return 0.0
        now_s = time.monotonic()
        if batch.lines:
            self._news_s = now_s
            self._stop_watching()
        quiet_s = now_s - self._news_s
        if quiet_s < _FAST_FOR_S:
            return FAST_S
        if quiet_s < _SLOW_FOR_S:
            return SLOW_S
        self._watch()
        return IDLE_S

    def _put(self, batch: Batch) -> None:
        """Hand a batch over; one without lines replaces another such at the end."""
        while len(self._batches) >= _MAX_WAITING and not self._stopping.is_set():
            self._taken.clear()
            self._taken.wait(IDLE_S)
        if not batch.lines:
            with contextlib.suppress(IndexError):
                if not self._batches[-1].lines:
                    self._batches.pop()
        self._batches.append(batch)

    def _blind(self, error: Exception) -> Batch:
        """Return a batch that says that nothing can be read."""
        text = f"reading failed: {type(error).__name__}: {error}"
        return self._reader.blind(Problem("telemetry", text))

    def _watch(self) -> None:
        """Have the file system wake this thread; without its help it polls."""
        if self._observer is not None or not self._is_watching:
            return
        path = self._reader.run.path
        try:
            if tells_of_changes(path):
                self._observer = _observe(str(path), self._wake)
        except Exception:  # noqa: BLE001 - inotify's limits, a directory that went: polling does
            self._observer = None
        self._is_watching = self._observer is not None
        self._reader.is_polling = not self._is_watching

    def _stop_watching(self) -> None:
        observer, self._observer = self._observer, None
        if observer is not None:
            observer.stop()
            observer.join(_STOP_S)


def _observe(path: str, wake: threading.Event) -> "BaseObserver":
    # Imported late: 40 ms that are not on the way to the first screen.
    from watchdog.events import FileSystemEvent, FileSystemEventHandler  # noqa: PLC0415 - see above
    from watchdog.observers import Observer  # noqa: PLC0415 - see above

    class Waker(FileSystemEventHandler):
        def on_any_event(self, event: FileSystemEvent) -> None:
            if event.event_type in ("created", "modified", "moved", "deleted"):
                wake.set()

    observer = Observer()
    observer.schedule(Waker(), path, recursive=True)
    observer.start()
    return observer
