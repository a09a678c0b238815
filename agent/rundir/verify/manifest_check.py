"""Read a checkpoint's manifest and question it before it is believed.

Everything else is measured by the manifest, and it is a file like any other:
it may be cut, edited or taken from elsewhere.
"""

import re
from collections import Counter
from pathlib import Path

from agent.rundir.errors import NewerSchemaError, UnreadableFileError
from agent.rundir.layout import MANIFEST_NAME, parse_checkpoint_name
from agent.rundir.manifest import (
    Manifest,
    encode_unsealed,
    manifest_digest,
    parse_manifest,
)
from agent.rundir.seal import is_as_written, is_broken
from agent.rundir.verify.one_file import examine
from agent.rundir.verify.outcome import Outcome
from agent.rundir.verify.source import Source
from agent.rundir.verify.text import visible
from agent.rundir.verify.verdict import State

_MAX_MANIFEST_BYTES = 256 << 20
_NAME_AT_END = re.compile(r"(?:step|round)-\d+\Z")


def read_trusted_manifest(
    directory: Path, outcome: Outcome
) -> tuple[Manifest, str] | None:
    """Return a checkpoint's manifest and its digest, with doubts as findings.

    Returns:
        None, with a finding, if it cannot be read as a manifest at all.
    """
    found: list[bytes] = []

    def look(source: Source) -> None:
        found.append(source.read(0, min(source.size, _MAX_MANIFEST_BYTES + 1)))

    examine(
        directory / MANIFEST_NAME,
        MANIFEST_NAME,
        outcome,
        look,
        if_absent=State.DAMAGED,
    )
    if not found:
        return None
    manifest = _parse(directory, found[0], outcome)
    if manifest is None:
        return None
    if not is_as_written(found[0], encode_unsealed(manifest)):
        _doubt("it is not as a trainer wrote it", outcome)
    _check_name(directory, manifest, outcome)
    _check_files(manifest, outcome)
    return manifest, manifest_digest(found[0])


def _parse(directory: Path, data: bytes, outcome: Outcome) -> Manifest | None:
    try:
        return parse_manifest(data, directory / MANIFEST_NAME)
    except NewerSchemaError as error:
        # A damaged number looks like a newer one.
        state = State.CHANGED_SINCE_SAVE if is_broken(data) else State.UNREADABLE
        outcome.add(state, MANIFEST_NAME, visible(str(error)))
        outcome.hint = f"read it with a newer version: `{error.hint}`"
    except UnreadableFileError as error:
        # Every manifest ends in a brace and a newline.
        is_cut = not data.rstrip().endswith(b"}")
        state = State.TRUNCATED if is_cut else State.DAMAGED
        outcome.add(state, MANIFEST_NAME, visible(str(error)))
    return None


def _check_name(directory: Path, manifest: Manifest, outcome: Outcome) -> None:
    """Compare the step in the directory's name, set aside or not."""
    match = _NAME_AT_END.search(directory.name)
    parsed = parse_checkpoint_name(match[0]) if match else None
    if parsed is None:
        return
    told = manifest.round_num
    if parsed.kind == "step":
        told = manifest.step if manifest.label_step is None else manifest.label_step
    if told != parsed.number:
        _doubt(
            f"it is of {parsed.kind} {told}, the directory's name says {parsed.number}",
            outcome,
        )


def _check_files(manifest: Manifest, outcome: Outcome) -> None:
    names = Counter(entry.name for entry in manifest.files)
    twice = [name for name, count in names.items() if count > 1]
    if twice:
        _doubt(f"it lists `{visible(twice[0])}` twice", outcome, State.DAMAGED)
    if not names:
        _doubt("it lists no files", outcome, State.DAMAGED)
    if any(entry.size_bytes < 0 for entry in manifest.files):
        _doubt("it lists a file of negative size", outcome, State.DAMAGED)


def _doubt(
    what: str, outcome: Outcome, state: State = State.CHANGED_SINCE_SAVE
) -> None:
    outcome.add(state, MANIFEST_NAME, f"the manifest cannot be trusted: {what}")
