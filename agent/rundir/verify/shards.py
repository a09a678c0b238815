"""Verify a directory of torch.distributed.checkpoint that has no manifest.

Each shard is a row of `torch.save` archives with their CRCs. Which belongs
where stands in `.metadata`, a pickle without a checksum that nobody here runs:
at best it is whole, names shards that are there, and they are consistent.
"""

from pathlib import Path

from agent.rundir.verify.one_file import examine, verify_file
from agent.rundir.verify.outcome import Outcome
from agent.rundir.verify.pickle_scan import NotAPickleError, sketch_pickle
from agent.rundir.verify.source import Source
from agent.rundir.verify.task import Task
from agent.rundir.verify.text import visible
from agent.rundir.verify.torch_zip import SHARD_SUFFIX
from agent.rundir.verify.verdict import State

METADATA_NAME = ".metadata"
_MAX_METADATA_BYTES = 64 << 20
"""More is not looked at, and nothing is said about it."""


def verify_shards(directory: Path, task: Task, outcome: Outcome) -> None:
    """Verify all shards of a directory; add what is found to `outcome`.

    Raises:
        VerifyCancelled: the caller asked to stop.
    """
    outcome.format = "dcp"

    named: set[str] = set()
    examine(
        directory / METADATA_NAME,
        METADATA_NAME,
        outcome,
        lambda source: named.update(_shards_named_in(source, outcome)),
    )
    paths = list_shards(directory)
    task.watch.total_bytes = sum(p.stat().st_size for p in paths if p.is_file())
    for path in paths:
        outcome.take(verify_file(path, path.name, task))
    for name in sorted(named - {path.name for path in paths}):
        outcome.add(
            State.DAMAGED,
            name,
            f"`{METADATA_NAME}` names `{visible(name)}`, which is not there",
        )
    if not paths:
        outcome.add(State.DAMAGED, METADATA_NAME, "there are no shards beside it")
    outcome.add(
        State.NO_CHECKSUM,
        METADATA_NAME,
        "no manifest: only what lies within each shard could be verified",
    )


def list_shards(directory: Path) -> list[Path]:
    """Return the files of a directory that are named as shards."""
    return sorted(directory.glob(f"*{SHARD_SUFFIX}"))


def _shards_named_in(source: Source, outcome: Outcome) -> set[str]:
    """Return the shards that the metadata name; a finding where they are torn."""
    if not source.size:
        outcome.add(State.TRUNCATED, source.name, f"`{source.name}` is empty", offset=0)
        return set()
    data = source.read_up_to(0, _MAX_METADATA_BYTES)
    try:
        sketch = sketch_pickle(data)
    except NotAPickleError as error:
        if not error.is_too_long and source.size <= len(data):
            state = State.TRUNCATED if error.ends_early else State.DAMAGED
            outcome.add(state, source.name, visible(str(error)), offset=0)
        return set()
    if sketch.size != source.size:
        outcome.add(
            State.DAMAGED,
            source.name,
            "more follows the end of the pickle",
            offset=sketch.size,
            differs=(f"{sketch.size:,} bytes", f"{source.size:,} bytes"),
        )
    return {text for text in sketch.texts() if text.endswith(SHARD_SUFFIX)}
