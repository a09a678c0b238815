"""Events that are written to a file, a slice at a time."""

import time

from opsdash import units
from opsdash.operations.export import EventExport
from opsdash.widgets.progress import JobState

_SLICE = 500
_PATIENCE_S = 0.05


class ExportJob:
    """One export; each look at it writes some more."""

    def __init__(self, export: EventExport) -> None:
        self._export = export
        self._is_cancelled = False

    @property
    def title(self) -> str:
        """What is written where."""
        return f"export events to {self._export.path}"

    def cancel(self) -> None:
        """Give up."""
        self._is_cancelled = not self._export.is_over
        self._export.cancel()

    def leave(self) -> None:
        """Give up: nobody writes on."""
        self.cancel()

    def state(self) -> JobState:
        """Write some more; return what a line shows of it."""
        export, until_s = self._export, time.monotonic() + _PATIENCE_S
        while not export.is_over and time.monotonic() < until_s:
            export.advance(_SLICE)
        if export.error:
            return JobState(self.title, outcome="failed", detail=export.error)
        if self._is_cancelled:
            return JobState(self.title, outcome="cancelled")
        detail = f"{units.count(export.num_done)} events"
        if export.is_over:
            return JobState(self.title, outcome="ok", detail=detail)
        return JobState(self.title, export.num_done / max(1, export.num_events), detail)
