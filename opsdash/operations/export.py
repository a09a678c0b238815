"""Write events to a file for other programs: JSON Lines as they were told, or CSV.

A file that exists is never overwritten; one that was not finished is removed.
"""

import contextlib
import csv
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from agent.rundir.errors import RunDirError
from agent.rundir.readable import readable
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
    """One file that is written by one thread."""

    def __init__(self, path: Path) -> None:
        """Open the file.

        Raises:
            RunDirError: it exists, cannot be written, or has another ending.
        """
        check_ending(path)
        try:
            self._file = path.open("xb")
        except OSError as error:
            raise RunDirError(
                f"`{path}` cannot be written: {error.strerror}", hint=f"ls -l {path}"
            ) from error
        self._path = path
        self._is_csv = path.suffix == ".csv"
        if self._is_csv:
            self._file.write(_csv_line(_COLUMNS))

    def write(self, event: ExportedEvent) -> None:
        """Write one more.

        Raises:
            OSError: it cannot be written.
        """
        self._file.write(self._encoded(event))

    def finish(self) -> None:
        """Put everything on the disk.

        Raises:
            OSError: it cannot be.
        """
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()

    def discard(self) -> None:
        """Remove what is half written."""
        with contextlib.suppress(OSError):
            self._file.close()
        with contextlib.suppress(OSError):
            self._path.unlink()

    def _encoded(self, event: ExportedEvent) -> bytes:
        if self._is_csv:
            cells = (*event[:4], event.severity.name.lower(), *event[5:10])
            return _csv_line(tuple("" if cell is None else cell for cell in cells))
        if _is_object(event.line):
            return event.line.strip().encode() + b"\n"
        told = event._asdict() | {"severity": event.severity.name.lower()}
        return msgspec.json.encode(readable(told)) + b"\n"


def check_ending(path: Path) -> None:
    """Refuse a file that would be neither JSON Lines nor CSV.

    Raises:
        RunDirError: it has another ending.
    """
    if path.suffix not in SUFFIXES:
        raise RunDirError(f"`{path}` must end in {' or '.join(SUFFIXES)}")


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
