"""Tell what a file is by its bytes, and verify it as far as that format allows."""

from pathlib import PurePath

from agent.rundir.verify import torch_layout
from agent.rundir.verify.legacy import looks_like_legacy, verify_legacy
from agent.rundir.verify.outcome import Outcome
from agent.rundir.verify.safetensors import looks_like_safetensors, verify_safetensors
from agent.rundir.verify.source import Source
from agent.rundir.verify.task import Task
from agent.rundir.verify.text import visible
from agent.rundir.verify.torch_zip import SHARD_SUFFIX, verify_torch_zip
from agent.rundir.verify.verdict import State

CHECKPOINT_SUFFIXES = {".pt", ".pth", ".ckpt", ".bin", ".safetensors", SHARD_SUFFIX}
"""Files that hold tensors by their name already."""
_START_BYTES = 512
_TAIL_SIGNATURES = ((b"PK\x06\x06", -98), (b"PK\x06\x07", -42), (b"PK\x05\x06", -22))
_EMPTY_ZIP = b"PK\x05\x06"
_TAR_MAGIC = (257, b"ustar")


def verify_by_format(source: Source, task: Task, outcome: Outcome) -> bool:
    """Verify one file of any format; add what is found to `outcome`.

    Returns:
        Whether every byte went through the task's hasher.

    Raises:
        EndsEarlyError: the file became shorter meanwhile.
        NotReadableError: the disk cannot deliver.
        VerifyCancelled: the caller asked to stop.
    """
    start = source.read_up_to(0, _START_BYTES)
    if not start:
        outcome.add(
            State.TRUNCATED, source.name, f"`{visible(source.name)}` is empty", offset=0
        )
    elif _is_zip(source, start):
        is_shard = source.name.endswith(SHARD_SUFFIX)
        outcome.format = "dcp" if is_shard else "torch_zip"
        return verify_torch_zip(source, task, outcome)
    elif looks_like_legacy(start):
        outcome.format = "torch_legacy"
        verify_legacy(source, task.watch, outcome)
    elif source.name.endswith(".safetensors") or looks_like_safetensors(
        start, source.size
    ):
        outcome.format = "safetensors"
        verify_safetensors(source, outcome)
    else:
        _report_unknown(source, start, outcome)
    return False


def _is_zip(source: Source, start: bytes) -> bool:
    if start.startswith((torch_layout.LOCAL_SIGNATURE, _EMPTY_ZIP)):
        return True
    if torch_layout.LOCAL_SIGNATURE.startswith(start):  # cut within the first bytes
        return True
    # A damaged start does not make it something else: the end tells as well.
    return any(
        source.read_up_to(max(0, source.size + offset), 4) == signature
        for signature, offset in _TAIL_SIGNATURES
    )


def _report_unknown(source: Source, start: bytes, outcome: Outcome) -> None:
    name = PurePath(source.name)
    offset, magic = _TAR_MAGIC
    if not any(start) and name.suffix in CHECKPOINT_SUFFIXES:
        outcome.add(
            State.DAMAGED,
            source.name,
            f"`{visible(source.name)}` starts with {len(start)} zeros",
            offset=0,
        )
        return
    if start[offset:].startswith(magic):
        what = "a tar archive, as torch wrote before 0.1.10"
    elif start[:1] == b"\x80":
        what = "a plain pickle, which is never run to find out more"
    else:
        what = "no checkpoint in a format that is known here"
    outcome.add(State.UNREADABLE, source.name, f"`{visible(source.name)}` is {what}")
