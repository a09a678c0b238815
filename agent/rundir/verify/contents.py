"""Read an archive file once and compare the CRC-32 of every record.

torch writes 0 where it was told not to compute one; such a record is said to
have no checksum, never to be damaged.
"""

from typing import NamedTuple

from agent.rundir.verify import torch_layout as layout
from agent.rundir.verify.archive import Archive
from agent.rundir.verify.inflate import inflated_crc
from agent.rundir.verify.outcome import Outcome
from agent.rundir.verify.pickle_scan import NotAPickleError, sketch_pickle
from agent.rundir.verify.scan import Extent, scan
from agent.rundir.verify.source import Source
from agent.rundir.verify.task import Task
from agent.rundir.verify.text import plural, visible
from agent.rundir.verify.torch_layout import Record
from agent.rundir.verify.verdict import State

_MAX_PICKLE_BYTES = 64 << 20
_PICKLE_RECORD = "data.pkl"


class _Content(NamedTuple):
    extent: Extent
    archive: Archive
    record: Record
    crc: int | None = None
    """Computed from the bytes; None until then, and where they are no content."""

    @property
    def name(self) -> str:
        return visible(self.archive.short_name(self.record))


def check_contents(
    source: Source, archives: list[Archive], task: Task, outcome: Outcome
) -> bool:
    """Compare checksums, of every byte if the task is with content.

    Returns:
        Whether every byte went through the task's hasher.

    Raises:
        EndsEarlyError: the file became shorter meanwhile.
        NotReadableError: the disk cannot deliver.
        VerifyCancelled: the caller asked to stop.
    """
    contents = _place(source, archives, outcome)
    if task.with_content:
        contents = _checksum(source, contents, task)
        _report_differing(contents, task, outcome)
    _report_missing(contents, outcome)
    return task.with_content


def _place(source: Source, archives: list[Archive], outcome: Outcome) -> list[_Content]:
    """Return the contents that lie in the file, in order, without overlap."""
    contents: list[_Content] = []
    position = 0
    for archive in archives:
        for record, extent in zip(archive.records, archive.extents, strict=True):
            if not record.size:
                continue
            content = _Content(extent, archive, record)
            # Overlaps, which no writer makes, could multiply the work.
            if position <= extent.start and extent.stop <= source.size:
                contents.append(content)
                position = extent.stop
            else:
                outcome.add(
                    State.DAMAGED,
                    source.name,
                    f"the record `{content.name}` overlaps another or the file's end",
                    record=content.name,
                    offset=extent.start,
                )
    return contents


def _checksum(source: Source, contents: list[_Content], task: Task) -> list[_Content]:
    """Read the file and fill in the CRC-32 of each content."""
    checksums = scan(
        source,
        [content.extent for content in contents],
        task.hasher,
        num_threads=task.num_threads,
        watch=task.watch,
    )
    checked = []
    for content, stored_crc in zip(contents, checksums, strict=True):
        crc: int | None = stored_crc
        if content.record.method != layout.STORED:
            crc = inflated_crc(source, content.extent, content.record.size, task.watch)
        checked.append(content._replace(crc=crc))
    return checked


def _report_differing(contents: list[_Content], task: Task, outcome: Outcome) -> None:
    differing = [c for c in contents if c.record.crc and c.crc != c.record.crc]
    names = _tensor_names(differing, task)
    for content in differing:
        tensor = names.get((content.archive.base, content.name))
        where = f" (tensor `{visible(tensor)}`)" if tensor else ""
        found = "no deflated data" if content.crc is None else f"{content.crc:08x}"
        outcome.add(
            State.DAMAGED,
            content.archive.source.name,
            f"the record `{content.name}`{where} does not match its CRC-32",
            record=content.name,
            tensor=tensor,
            offset=content.extent.start,
            differs=(f"{content.record.crc:08x}", found),
        )


def _report_missing(contents: list[_Content], outcome: Outcome) -> None:
    without = [c for c in contents if not c.record.crc and c.crc != 0]
    if not without:
        return
    message = "no checksum recorded: saved with `set_crc32_options(False)`"
    if len(without) < len(contents):
        message = f"no checksum recorded for {plural(len(without), 'record')}"
    outcome.add(
        State.NO_CHECKSUM,
        without[0].archive.source.name,
        message,
        record=without[0].name,
    )


def _tensor_names(differing: list[_Content], task: Task) -> dict[tuple[int, str], str]:
    """Return tensors by archive and record, from the manifest or the pickles."""
    archives = {content.archive.base: content.archive for content in differing}
    # Names that come from a damaged pickle would mislead.
    unusable = {c.archive.base for c in differing if c.name == _PICKLE_RECORD}
    return {
        (base, record): tensor
        for base, archive in archives.items()
        for record, tensor in (
            task.tensor_names or ({} if base in unusable else _names_in_pickle(archive))
        ).items()
    }


def _names_in_pickle(archive: Archive) -> dict[str, str]:
    index = archive.index(_PICKLE_RECORD)
    data = None if index is None else archive.read_content(index, _MAX_PICKLE_BYTES)
    try:
        names = sketch_pickle(data or b"").tensor_names()
    except NotAPickleError:
        return {}
    return {f"data/{key}": name for key, name in names.items()}
