"""Write the newest segment of a process's telemetry, then the next.

A segment that is full, or that somebody removed, is followed by one with the
next number; a number is never used twice, so that an offset that a reader or a
roll-up remembers cannot mean another file.
"""

from pathlib import Path

from agent.rundir.layout import telemetry_name
from agent.rundir.segments import list_segments
from agent.writing.append import AppendFile


class SegmentWriter(AppendFile):
    """Writes the newest segment."""

    segment: int = 0
    """Its number; 0: none was opened yet."""

    def __init__(self, folder: Path, stem: str) -> None:
        """Name them; `begin` opens one."""
        super().__init__()
        self.folder = folder
        self.stem = stem

    def begin(self) -> None:
        """Go on in the newest segment that a process of this name left.

        Raises:
            OSError: it cannot be opened.
        """
        newest = max(list_segments(self.folder, self.stem), default=1)
        self.open(self.folder / telemetry_name(self.stem, newest))
        self.segment = newest

    def begin_next(self, segment: int, first_line: bytes) -> None:
        """Write to another segment from now on.

        Raises:
            OSError: it cannot be opened; writes go where they went.
        """
        path = self.folder / telemetry_name(self.stem, segment)
        self.open(path, first_line=first_line)
        self.segment = segment
