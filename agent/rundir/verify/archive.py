"""Read the directory at the end of a `torch.save` archive.

Numbers come from the zip64 end record and from the entries; that everything
else agrees with them is for `headers` to compare. An archive whose end cannot
be read at all is for `walk` to explain.
"""

from dataclasses import dataclass, field

from agent.rundir.verify import torch_layout as layout
from agent.rundir.verify.compare import compare
from agent.rundir.verify.outcome import Outcome
from agent.rundir.verify.scan import Extent
from agent.rundir.verify.source import Source
from agent.rundir.verify.text import hexadecimal, plural
from agent.rundir.verify.torch_layout import Record
from agent.rundir.verify.verdict import State

MAX_DIRECTORY_BYTES = 256 << 20


@dataclass
class Archive:
    """One archive inside a file; offsets of its records are relative to it."""

    source: Source
    base: int
    """Where it starts in the file: 0, or further on in a DCP shard."""
    directory_offset: int
    directory: bytes
    records: list[Record] = field(default_factory=list)
    entry_ends: list[int] = field(default_factory=list)
    """Where each record's entry ends in the directory."""
    extents: list[Extent] = field(default_factory=list)
    """Of each record's content in the file, once the headers were compared."""
    root: bytes = b""
    """The folder that all records are in, with its slash."""

    @property
    def directory_start(self) -> int:
        """Where the directory starts in the file."""
        return self.base + self.directory_offset

    def short_name(self, record: Record) -> bytes:
        """Return a record's name without the root folder."""
        return record.full_name.removeprefix(self.root)

    def index(self, short_name: str) -> int | None:
        """Return the position of the record of that name, None without one."""
        full_name = self.root + short_name.encode()
        names = (record.full_name for record in self.records)
        return next((i for i, name in enumerate(names) if name == full_name), None)

    def read_content(self, index: int, limit: int) -> bytes | None:
        """Return a stored record's content; None if longer than `limit`.

        Raises:
            EndsEarlyError: it lies outside the file.
        """
        start, stop = self.extents[index]
        if stop - start > limit or self.records[index].method != layout.STORED:
            return None
        return self.source.read(start, stop - start)


def open_archive(source: Source, end: int, outcome: Outcome) -> Archive | None:
    """Return the archive that ends at `end`; None if there is no such end.

    The last 98 bytes are compared here.
    """
    tail_start = end - layout.TAIL_BYTES
    if tail_start < 0:
        return None
    found = source.read(tail_start, layout.TAIL_BYTES)
    claim = layout.read_tail(found)
    if claim is None:
        return None
    num_records, offset, size = claim
    base = tail_start - offset - size
    if base < 0:
        return None
    if size > MAX_DIRECTORY_BYTES:
        outcome.add(
            State.DAMAGED,
            source.name,
            f"the archive claims a directory of {plural(size, 'byte')}",
            offset=tail_start,
        )
        return None
    expected = layout.tail(num_records, offset, size)
    compare(outcome, source.name, expected, found, tail_start, "the archive's end")
    archive = Archive(source, base, offset, source.read(base + offset, size))
    _read_entries(archive, num_records, outcome)
    return archive


def _read_entries(archive: Archive, num_records: int, outcome: Outcome) -> None:
    """Fill in the records, as far as the directory can be read."""
    position = 0
    try:
        while position < len(archive.directory):
            record, position = layout.read_central_entry(archive.directory, position)
            archive.records.append(record)
            archive.entry_ends.append(position)
    except ValueError as error:
        outcome.add(
            State.DAMAGED,
            archive.source.name,
            f"the archive's directory is broken: {error}",
            offset=archive.directory_start + position,
            differs=(
                hexadecimal(layout.CENTRAL_SIGNATURE),
                hexadecimal(archive.directory[position : position + 4]),
            ),
        )
    if len(archive.records) != num_records:
        outcome.add(
            State.DAMAGED,
            archive.source.name,
            "the archive does not list as many records as it says",
            offset=archive.directory_start,
            differs=(f"{num_records:,}", f"{len(archive.records):,}"),
        )
    if archive.records:
        folder, slash, _ = archive.records[0].full_name.partition(b"/")
        archive.root = folder + slash
