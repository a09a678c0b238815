"""Verify a published checkpoint: its manifest, and every file that it lists.

The digests decide. An archive's own checksums then tell what differs: with one
of them wrong a tensor is damaged, with all of them right the file was edited
or replaced. A file that the manifest does not list is mentioned and changes no
verdict, for nothing is loaded from it.
"""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path, PurePath

from agent.rundir.layout import MANIFEST_NAME
from agent.rundir.manifest import FileEntry, Manifest
from agent.rundir.verify.digest import Hasher, hex_part, new_hasher
from agent.rundir.verify.file_format import CHECKPOINT_SUFFIXES, verify_by_format
from agent.rundir.verify.manifest_check import read_trusted_manifest
from agent.rundir.verify.one_file import examine
from agent.rundir.verify.outcome import Outcome
from agent.rundir.verify.scan import scan
from agent.rundir.verify.source import Source
from agent.rundir.verify.task import Task
from agent.rundir.verify.text import plural, visible
from agent.rundir.verify.verdict import State

_MAX_LISTED = 20
_MAX_VISITED = 10_000
_CAN_TELL = State.CHANGED_SINCE_SAVE.severity
"""States at least as bad are about the bytes, not about what can be known."""


def verify_checkpoint_dir(directory: Path, task: Task, outcome: Outcome) -> str | None:
    """Verify a directory with a manifest; add what is found to `outcome`.

    Returns:
        The digest of the manifest; None if it cannot be read.

    Raises:
        VerifyCancelled: the caller asked to stop.
    """
    outcome.format = "checkpoint"
    trusted = read_trusted_manifest(directory, outcome)
    if trusted is None:
        return None
    manifest, digest = trusted
    task.watch.total_bytes = sum(max(0, f.size_bytes) for f in manifest.files)
    for entry in manifest.files:
        task.watch.check()
        outcome.take(_verify_listed(directory, manifest, entry, task))
    _mention_unlisted(directory, manifest, outcome)
    return digest


def _verify_listed(
    directory: Path, manifest: Manifest, entry: FileEntry, task: Task
) -> Outcome:
    outcome = Outcome()

    def look(source: Source) -> None:
        outcome.num_bytes = source.size
        names = _tensor_names(manifest, entry.name)
        if source.size == entry.size_bytes:
            _compare_digest(source, entry, replace(task, tensor_names=names), outcome)
        else:
            _explain_size(source, entry, replace(task, tensor_names=names), outcome)

    examine(directory / entry.name, entry.name, outcome, look, if_absent=State.DAMAGED)
    return outcome


def _tensor_names(manifest: Manifest, file: str) -> dict[str, str]:
    """Return the first tensor in each record of a file."""
    names: dict[str, str] = {}
    for tensor in manifest.tensors:
        if tensor.file == file and tensor.record is not None:
            names.setdefault(tensor.record, tensor.name)
    return names


def _explain_size(
    source: Source, entry: FileEntry, task: Task, outcome: Outcome
) -> None:
    """Say what a file of the wrong size is: cut, replaced, or added to."""
    inner = Outcome()
    verify_by_format(source, task, inner)
    state = State.CHANGED_SINCE_SAVE
    if inner.state.severity >= _CAN_TELL:
        outcome.take(inner)
        state = inner.state
    elif inner.format not in ("torch_zip", "dcp"):
        is_cut = source.size < entry.size_bytes
        state = State.TRUNCATED if is_cut else State.DAMAGED
    outcome.add(
        state,
        source.name,
        f"`{visible(source.name)}` has {source.size:,} bytes, "
        f"its manifest says {entry.size_bytes:,}",
        offset=min(source.size, max(0, entry.size_bytes)),
        differs=(f"{entry.size_bytes:,} bytes", f"{source.size:,} bytes"),
    )


def _compare_digest(
    source: Source, entry: FileEntry, task: Task, outcome: Outcome
) -> None:
    try:
        hasher = new_hasher(entry.digest)
    except ValueError as error:
        outcome.add(State.DAMAGED, MANIFEST_NAME, visible(str(error)))
        hasher = None
    else:
        if hasher is None:
            _report_unknown_digest(entry, outcome)
    inner, is_hashed = Outcome(), False
    if source.size and PurePath(entry.name).suffix in CHECKPOINT_SUFFIXES:
        # Any other file may look like a broken one of some format and be right.
        is_hashed = verify_by_format(source, replace(task, hasher=hasher), inner)
    if hasher is None or not task.with_content:
        # Of a file in no known format nothing but the size was promised.
        if inner.state.severity >= _CAN_TELL:
            outcome.take(inner)
        return
    if not is_hashed:
        scan(source, [], hasher, num_threads=task.num_threads, watch=task.watch)
    _judge(source, entry, hasher, inner, outcome)


def _judge(
    source: Source,
    entry: FileEntry,
    hasher: Hasher,
    inner: Outcome,
    outcome: Outcome,
) -> None:
    """Put together what the digest says and what the file's format says."""
    found, expected = hasher.hexdigest(), hex_part(entry.digest)
    has_findings = inner.state.severity >= _CAN_TELL
    if has_findings:
        outcome.take(inner)
    if found == expected:
        if has_findings:
            message = "its digest is right: it was like this when it was published"
            outcome.add(State.SOUND, source.name, message)
        return
    is_consistent = inner.format in ("torch_zip", "dcp") and inner.state in (
        State.SOUND,
        State.NON_CANONICAL,
    )
    state = State.CHANGED_SINCE_SAVE if is_consistent else State.DAMAGED
    outcome.add(
        inner.state if has_findings else state,
        source.name,
        f"`{visible(source.name)}` does not have the digest that its manifest tells",
        differs=(entry.digest, entry.digest.partition(":")[0] + ":" + found),
    )


def _report_unknown_digest(entry: FileEntry, outcome: Outcome) -> None:
    outcome.add(
        State.NO_CHECKSUM,
        entry.name,
        f"the digest `{visible(entry.digest)}` is of a kind not known here",
    )


def _mention_unlisted(directory: Path, manifest: Manifest, outcome: Outcome) -> None:
    listed = {MANIFEST_NAME, *(os.path.normpath(f.name) for f in manifest.files)}
    unlisted = [name for name in _iter_files(directory) if name not in listed]
    for name in sorted(unlisted)[:_MAX_LISTED]:
        outcome.add(
            State.SOUND,
            name,
            f"`{visible(name)}` is not in the manifest: it was added later",
        )
    if len(unlisted) > _MAX_LISTED:
        more = plural(len(unlisted) - _MAX_LISTED, "more file")
        outcome.add(State.SOUND, ".", f"{more} not in the manifest")


def _iter_files(directory: Path) -> Iterator[str]:
    """Yield names below a directory, links not followed."""
    num_visited = 0
    for folder, folders, files in os.walk(directory):
        relative = os.path.relpath(folder, directory)
        for name in files:
            num_visited += 1
            yield os.path.normpath(os.path.join(relative, name))  # noqa: PTH118 - names, not files
        if num_visited > _MAX_VISITED:
            folders.clear()
