"""Verify a directory of torch.distributed.checkpoint that has no manifest.

Each shard is a row of `torch.save` archives with their CRCs. Which belongs
where stands in `.metadata`, a pickle without a checksum that nobody here runs:
at best the shards are consistent, and nothing proves that they are complete.
"""

from pathlib import Path

from agent.rundir.verify.one_file import examine, verify_file
from agent.rundir.verify.outcome import Outcome
from agent.rundir.verify.source import Source
from agent.rundir.verify.task import Task
from agent.rundir.verify.torch_zip import SHARD_SUFFIX
from agent.rundir.verify.verdict import State

METADATA_NAME = ".metadata"


def verify_shards(directory: Path, task: Task, outcome: Outcome) -> None:
    """Verify all shards of a directory; add what is found to `outcome`.

    Raises:
        VerifyCancelled: the caller asked to stop.
    """
    outcome.format = "dcp"

    def look(source: Source) -> None:
        if not source.size:
            outcome.add(
                State.TRUNCATED, METADATA_NAME, f"`{METADATA_NAME}` is empty", offset=0
            )

    examine(directory / METADATA_NAME, METADATA_NAME, outcome, look)
    paths = sorted(directory.glob(f"*{SHARD_SUFFIX}"))
    task.watch.total_bytes = sum(p.stat().st_size for p in paths if p.is_file())
    for path in paths:
        outcome.take(verify_file(path, path.name, task))
    if not paths:
        outcome.add(State.DAMAGED, METADATA_NAME, "there are no shards beside it")
    outcome.add(
        State.NO_CHECKSUM,
        METADATA_NAME,
        "no manifest: only what lies within each shard could be verified",
    )
