"""Compare every header, padding and descriptor of an archive with the original.

Each is made again from the directory's numbers and must start where the one
before it ended, so that no byte of the file belongs to nothing.
"""

from agent.rundir.verify import torch_layout as layout
from agent.rundir.verify.archive import Archive
from agent.rundir.verify.compare import compare
from agent.rundir.verify.crc import crc32
from agent.rundir.verify.outcome import Outcome
from agent.rundir.verify.scan import Extent
from agent.rundir.verify.text import visible
from agent.rundir.verify.torch_layout import Record
from agent.rundir.verify.verdict import State
from agent.rundir.verify.watch import Watch

_MAX_ALIGNMENT = 1 << 15
"""The padding's length is a 16-bit number."""
_MAX_ALIGNMENT_DIGITS = 5
_CHECK_EVERY = 1024


def check_headers(archive: Archive, outcome: Outcome, watch: Watch) -> None:
    """Compare all bytes that are not content, and fill in `archive.extents`.

    Raises:
        EndsEarlyError: the file became shorter meanwhile.
        VerifyCancelled: the caller asked to stop.
    """
    alignment = _read_alignment(archive, outcome)
    position = 0
    names: set[bytes] = set()
    for index, record in enumerate(archive.records):
        if index % _CHECK_EVERY == 0:
            watch.check()
        _check_name(archive, record, names, outcome)
        _check_entry(archive, index, outcome)
        if record.header_offset != position:
            _report_place(archive, record, position, outcome)
        position = _check_around(archive, record, alignment, outcome)
    if position != archive.directory_offset:
        outcome.add(
            State.DAMAGED,
            archive.source.name,
            "the archive's directory does not start where the last record ends",
            offset=archive.directory_start,
            differs=(f"{position:,}", f"{archive.directory_offset:,}"),
        )


def _check_name(
    archive: Archive, record: Record, names: set[bytes], outcome: Outcome
) -> None:
    name = record.full_name
    problem = None
    if name in names:
        problem = "is there twice"
    elif not archive.root.endswith(b"/") or not name.startswith(archive.root):
        problem = f"is not in the folder `{visible(archive.root)}`"
    elif name == archive.root:
        problem = "has no name"
    elif not record.size and record.crc:
        problem = "is empty and has a checksum"
    elif record.method == layout.STORED and record.size != record.stored_size:
        problem = "is not deflated and has two sizes"
    names.add(name)
    if problem:
        outcome.add(
            State.DAMAGED,
            archive.source.name,
            f"the record `{visible(name)}` {problem}",
            record=archive.short_name(record),
            offset=archive.base + record.header_offset,
        )


def _check_entry(archive: Archive, index: int, outcome: Outcome) -> None:
    """Compare a record's entry in the directory."""
    record = archive.records[index]
    start = archive.entry_ends[index - 1] if index else 0
    expected = layout.central_entry(record)
    found = archive.directory[start : archive.entry_ends[index]]
    if found != expected:
        compare(
            outcome,
            archive.source.name,
            expected,
            found,
            archive.directory_start + start,
            f"the directory entry of `{visible(archive.short_name(record))}`",
            record=archive.short_name(record),
        )


def _report_place(
    archive: Archive, record: Record, position: int, outcome: Outcome
) -> None:
    outcome.add(
        State.DAMAGED,
        archive.source.name,
        f"the record `{visible(archive.short_name(record))}` does not start where "
        "the one before it ends",
        record=archive.short_name(record),
        offset=archive.base + record.header_offset,
        differs=(f"{position:,}", f"{record.header_offset:,}"),
    )


def _check_around(
    archive: Archive, record: Record, alignment: int, outcome: Outcome
) -> int:
    """Compare what precedes and follows a record's content.

    Returns:
        Where the next record has to start, relative to the archive.
    """
    before = layout.local_header(record, alignment)
    start = archive.base + record.header_offset + len(before)
    stop = start + record.stored_size
    archive.extents.append(Extent(start, stop))
    after = layout.descriptor(record)
    for expected, offset, what in (
        (before, start - len(before), "the header"),
        (after, stop, "the data descriptor"),
    ):
        found = archive.source.read_up_to(offset, len(expected))
        if found != expected:
            compare(
                outcome,
                archive.source.name,
                expected,
                found,
                offset,
                f"{what} of `{visible(archive.short_name(record))}`",
                record=archive.short_name(record),
            )
    return stop + len(after) - archive.base


def _read_alignment(archive: Archive, outcome: Outcome) -> int:
    """Return the alignment that the archive names, 64 if it names none."""
    index = archive.index(layout.ALIGNMENT_RECORD)
    if index is None:
        return layout.DEFAULT_ALIGNMENT
    record = archive.records[index]
    digits = _read_digits(archive, record)
    # A damaged number would show up as damage everywhere: ask its CRC-32 first.
    if not record.crc or crc32(digits) == record.crc:
        if digits.isdigit() and 1 <= int(digits) <= _MAX_ALIGNMENT:
            return int(digits)
        outcome.add(
            State.DAMAGED,
            archive.source.name,
            f"`{visible(digits)}` is no alignment that torch could have used",
            record=layout.ALIGNMENT_RECORD,
        )
    return layout.DEFAULT_ALIGNMENT


def _read_digits(archive: Archive, record: Record) -> bytes:
    """Return the number's digits, found by the lengths in its own header."""
    offset = archive.base + record.header_offset
    header = archive.source.read_up_to(offset, layout.LOCAL_FIXED_BYTES)
    lengths = int.from_bytes(header[26:28], "little") + int.from_bytes(
        header[28:30], "little"
    )
    start = offset + layout.LOCAL_FIXED_BYTES + lengths
    size = min(record.stored_size, _MAX_ALIGNMENT_DIGITS)
    return archive.source.read_up_to(start, size)
