"""Verify what `torch.save` wrote: every byte around the tensors, and every CRC.

A file is one archive, a shard of torch.distributed.checkpoint several in a
row. If the layout is not torch's the file may still be consistent: someone
packed it with another tool. That is decided by whether any header bears
torch's padding, which one damaged place cannot remove from all of them.
"""

from agent.rundir.verify.archive import Archive, open_archive
from agent.rundir.verify.contents import check_contents
from agent.rundir.verify.foreign_zip import bears_torch_padding, verify_foreign_zip
from agent.rundir.verify.headers import check_headers
from agent.rundir.verify.no_end import explain_missing_end
from agent.rundir.verify.outcome import Outcome
from agent.rundir.verify.serialization_id import check_serialization_id
from agent.rundir.verify.source import Source
from agent.rundir.verify.task import Task
from agent.rundir.verify.text import plural
from agent.rundir.verify.verdict import State

SHARD_SUFFIX = ".distcp"


def verify_torch_zip(source: Source, task: Task, outcome: Outcome) -> bool:
    """Verify one file of archives; add what is found to `outcome`.

    Returns:
        Whether every byte went through the task's hasher.

    Raises:
        EndsEarlyError: the file became shorter meanwhile.
        NotReadableError: the disk cannot deliver.
        VerifyCancelled: the caller asked to stop.
    """
    first_look = Outcome()
    archives = _open_archives(source, task, first_look)
    if first_look.state is not State.SOUND:
        headers = [
            archive.base + record.header_offset
            for archive in archives
            for record in archive.records
        ]
        if not bears_torch_padding(source, headers):
            verify_foreign_zip(source, task, outcome)
            return False
    if not archives:
        explain_missing_end(source, task.watch, outcome)
        return False
    outcome.take(first_look)
    for archive in archives:
        check_serialization_id(archive, outcome)
    return check_contents(source, archives, task, outcome)


def _open_archives(source: Source, task: Task, outcome: Outcome) -> list[Archive]:
    """Return the archives of a file, first to last, their headers compared."""
    archives: list[Archive] = []
    end = source.size
    while end > 0:
        archive = open_archive(source, end, outcome)
        if archive is None:
            break
        check_headers(archive, outcome, task.watch)
        archives.append(archive)
        end = archive.base
        if not source.name.endswith(SHARD_SUFFIX):
            break
    if end > 0:
        outcome.add(
            State.DAMAGED,
            source.name,
            f"the first {plural(end, 'byte')} belong to no archive",
            offset=0,
        )
    return archives[::-1]
