"""Write events to a file for other programs: JSON Lines as they were told, or CSV.

Worked off in slices by whoever owns the clock, so that a screen goes on. A file
that exists is never overwritten; one that was not finished is removed.
"""

import contextlib
import csv
import io
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from agent.rundir.errors import RunDirError
from opsdash.projections.event_words import Severity

SUFFIXES = (".jsonl", ".csv")
_COLUMNS = (
    "time_ns",
    "attempt",
    "node",
    "kind",
    "severity",
    "step",
    "round_num",
    "text",
    "file",
    "offset",
)


class ExportedEvent(NamedTuple):
    """One event on its way out."""

    time_ns: int
    attempt: int
    node: str
    kind: str
    severity: Severity
    step: int | None
    round_num: int | None
    text: str
    file: str
    offset: int
    line: str
    """As it stands in the telemetry; empty: it is gone."""


class EventExport:
    """One file that is being written."""

    def __init__(
        self,
        path: Path,
        numbers: Sequence[int],
        read: Callable[[int], ExportedEvent | None],
    ) -> None:
        """Open the file.

        Args:
            path: Ends in `.jsonl` or `.csv`.
            numbers: Of the events.
            read: Returns an event by its number; None: it was dropped meanwhile.

        Raises:
            RunDirError: it exists, cannot be written, or has another ending.
        """
        if path.suffix not in SUFFIXES:
            raise RunDirError(f"`{path}` must end in {' or '.join(SUFFIXES)}")
        try:
            self._file = path.open("xb")
        except OSError as error:
            raise RunDirError(
                f"`{path}` cannot be written: {error.strerror}", hint=f"ls -l {path}"
            ) from error
        self.path = path
        self.num_events = len(numbers)
        self.num_done = 0
        self.error = ""
        self.is_over = False
        self._is_csv = path.suffix == ".csv"
        self._rest: Iterator[int] = iter(numbers)
        self._read = read
        if self._is_csv:
            self._file.write(_csv_line(_COLUMNS))

    def advance(self, num_events: int) -> None:
        """Write so many more; the last call closes the file."""
        if self.is_over:
            return
        try:
            for _ in range(num_events):
                number = next(self._rest, None)
                if number is None:
                    self._finish()
                    return
                event = self._read(number)
                if event is not None:
                    self._file.write(self._encoded(event))
                self.num_done += 1
        except OSError as error:
            self.error = error.strerror or str(error)
            self.cancel()

    def cancel(self) -> None:
        """Give up: what is half written is removed."""
        if not self.is_over:
            self.is_over = True
            with contextlib.suppress(OSError):
                self._file.close()
            with contextlib.suppress(OSError):
                self.path.unlink()

    def _finish(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self.is_over = True

    def _encoded(self, event: ExportedEvent) -> bytes:
        if self._is_csv:
            cells = (*event[:4], event.severity.name.lower(), *event[5:10])
            return _csv_line(tuple("" if cell is None else cell for cell in cells))
        if _is_object(event.line):
            return event.line.strip().encode() + b"\n"
        told = event._asdict() | {"severity": event.severity.name.lower()}
        return msgspec.json.encode(told) + b"\n"


def _is_object(line: str) -> bool:
    try:
        return isinstance(msgspec.json.decode(line), dict)
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
        return False


def _csv_line(cells: Sequence[object]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow([_plain(cell) for cell in cells])
    return text.getvalue().encode("utf-8", "backslashreplace")


def _plain(cell: object) -> object:
    """Return a cell that no spreadsheet takes for a formula.

    Source: OWASP, "CSV Injection".
    """
    if isinstance(cell, str) and cell[:1] in ("=", "+", "-", "@", "\t", "\r"):
        return f"'{cell}"
    return cell
