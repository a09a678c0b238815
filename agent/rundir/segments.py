"""The files of one process's telemetry: which there are, and writing the next.

A segment that is full, or that somebody removed, is followed by one with the
next number; a number is never used twice, so that an offset that a reader or a
roll-up remembers cannot mean another file.
"""

from pathlib import Path

from agent.rundir.append import AppendFile
from agent.rundir.layout import parse_telemetry_name, telemetry_name


def list_segments(folder: Path, stem: str) -> list[int]:
    """Return the numbers of a process's segments on disk, in order.

    Raises:
        OSError: the folder cannot be read.
    """
    try:
        names = [parse_telemetry_name(path.name) for path in folder.iterdir()]
    except FileNotFoundError:
        return []
    return sorted(n.segment for n in names if n is not None and n.stem == stem)


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
