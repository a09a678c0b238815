"""Compare the id that torch derives from all CRCs with the CRCs that are there.

It depends on their order, so it tells records that were swapped, added,
removed or edited with all checksums made right again.
"""

from agent.rundir.verify import torch_layout as layout
from agent.rundir.verify.archive import Archive
from agent.rundir.verify.crc import crc32
from agent.rundir.verify.outcome import Outcome
from agent.rundir.verify.text import visible
from agent.rundir.verify.verdict import State

_YOUNGER_RECORD = ".format_version"
"""torch writes this record since 2.6 and the id since 2.1."""
_ID_BYTES = layout.SERIALIZATION_ID_BYTES


def check_serialization_id(archive: Archive, outcome: Outcome) -> None:
    """Add a `changed_since_save` finding unless the id fits the records.

    Raises:
        EndsEarlyError: the file became shorter meanwhile.
    """
    index = archive.index(layout.SERIALIZATION_ID_RECORD)
    if index is None:
        if archive.index(_YOUNGER_RECORD) is not None:
            outcome.add(
                State.CHANGED_SINCE_SAVE,
                archive.source.name,
                "the record that torch derives from all others is gone",
                record=layout.SERIALIZATION_ID_RECORD,
            )
        return
    if index != len(archive.records) - 1:
        outcome.add(
            State.CHANGED_SINCE_SAVE,
            archive.source.name,
            "a record follows the one that torch writes last",
            record=archive.short_name(archive.records[index + 1]),
            offset=archive.extents[index + 1].start,
        )
    _compare_hash(archive, index, outcome)


def _compare_hash(archive: Archive, index: int, outcome: Outcome) -> None:
    record = archive.records[index]
    written = _read_start(archive, index, _ID_BYTES)
    if record.crc and crc32(written) != record.crc:
        return  # its own content is damaged, and that is reported as such
    found = written[_ID_BYTES // 2 :]
    expected = b"%020d" % _hash(archive, index, with_content=False)
    if found != expected:
        expected = b"%020d" % _hash(archive, index, with_content=True)
    if found != expected:
        outcome.add(
            State.CHANGED_SINCE_SAVE,
            archive.source.name,
            "the records are consistent, but they are not the ones that were saved",
            record=layout.SERIALIZATION_ID_RECORD,
            offset=archive.extents[index].start + _ID_BYTES // 2,
            differs=(visible(expected), visible(found)),
        )


def _hash(archive: Archive, num_records: int, *, with_content: bool) -> int:
    """Hash the records before the id.

    Args:
        archive: whose records.
        num_records: how many of them.
        with_content: look at the start of each content, which matters only
            where it looks like a data descriptor, and costs a read.
    """
    facts = []
    for index, record in enumerate(archive.records[:num_records]):
        start = _read_start(archive, index, 8) if with_content else b""
        facts.append((record.size, record.crc, start))
    return layout.serialization_hash(facts)


def _read_start(archive: Archive, index: int, num_bytes: int) -> bytes:
    start, stop = archive.extents[index]
    return archive.source.read_up_to(start, min(num_bytes, stop - start))
