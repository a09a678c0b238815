"""What differs between two checkpoints, tensor by tensor.

Names, dtypes and shapes are in the manifests, and torch wrote a CRC-32 of every
tensor's bytes into its archive: which ones changed is known without reading
them. How much they changed is measured by a command of the trainer's.
"""

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from agent.rundir.layout import RunDir
from agent.rundir.manifest import Manifest, TensorEntry, read_manifest
from opsdash.operations.plan import Plan
from opsdash.operations.trainer_command import PACKAGES, trainer_command
from opsdash.projections.plausible import clip, finite

SAME, CHANGED, ADDED, REMOVED = "same", "changed", "added", "removed"
RESHAPED, UNTOLD = "reshaped", "untold"
_MAX_RECORDS = 1_000_000


class TensorChange(NamedTuple):
    """One tensor in two checkpoints."""

    name: str
    state: str
    """`same`, `changed`, `added`, `removed`, `reshaped` (dtype or shape), or
    `untold` where no checksum of its own was saved."""
    what: str
    """Its dtype and shape, in words; both where they differ."""


class Measure(NamedTuple):
    """How far apart the values of a tensor are; None where that has no meaning."""

    old_norm: float | None
    new_norm: float | None
    distance: float | None
    """Euclidean norm of the difference."""


@dataclass(frozen=True)
class Comparison:
    """Two checkpoints beside each other."""

    old: str
    new: str
    changes: tuple[TensorChange, ...]
    """In the order of the newer one; those that are gone come last."""

    def num(self, state: str) -> int:
        """Return how many tensors are in a state."""
        return sum(change.state == state for change in self.changes)


def compare_checkpoints(run: RunDir, old: str, new: str) -> Comparison:
    """Return what differs, without reading a tensor.

    Raises:
        RunDirError: a manifest cannot be read.
    """
    sides = [_Side.of(run.checkpoints / name) for name in (old, new)]
    before, after = (side.tensors for side in sides)
    changes = [
        _change(name, before.get(name), entry, sides) for name, entry in after.items()
    ]
    changes += [
        TensorChange(name, REMOVED, _words(entry))
        for name, entry in before.items()
        if name not in after
    ]
    return Comparison(old, new, tuple(changes))


def plan_measure(run: RunDir, old: str, new: str) -> Plan:
    """Return what measuring the distances will do: a pure read."""
    paths = [str((run.checkpoints / name).absolute()) for name in (old, new)]
    return Plan(
        kind="compare",
        title=f"compare {old} with {new}",
        reads=tuple(f"{path}: every tensor" for path in paths),
        writes=(),
        loses=(),
        command=trainer_command("compare", *paths),
        cwd=str(PACKAGES),
        subject=new,
    )


def read_measures(results: tuple[dict[str, Any], ...]) -> dict[str, Measure]:
    """Return what `trainer compare` printed, by the tensor's name."""
    found = {}
    for result in results:
        name = result.get("tensor")
        if isinstance(name, str):
            numbers = (result.get(k) for k in ("old_norm", "new_norm", "distance"))
            found[name] = Measure(*map(_number, numbers))
    return found


@dataclass(frozen=True)
class _Side:
    tensors: dict[str, TensorEntry]
    checksums: dict[tuple[str, str], tuple[int, int]]
    """(file, record) to CRC-32 and size."""

    @classmethod
    def of(cls, path: Path) -> "_Side":
        manifest, _ = read_manifest(path)
        tensors = {clip(entry.name): entry for entry in manifest.tensors}
        return cls(tensors, _checksums(path, manifest))

    def checksum(self, entry: TensorEntry) -> tuple[int, int] | None:
        return self.checksums.get((entry.file, entry.record or ""))


def _checksums(
    path: Path, manifest: Manifest
) -> dict[tuple[str, str], tuple[int, int]]:
    """Return what the archives say of their records; nothing where they cannot."""
    found: dict[tuple[str, str], tuple[int, int]] = {}
    if not manifest.crc32:
        return found
    for name in sorted({entry.file for entry in manifest.tensors}):
        try:
            with zipfile.ZipFile(path / name) as archive:
                for info in archive.infolist()[:_MAX_RECORDS]:
                    record = info.filename.partition("/")[2]
                    found[name, record] = (info.CRC, info.file_size)
        except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError):
            continue
    return found


def _change(
    name: str, before: TensorEntry | None, after: TensorEntry, sides: list[_Side]
) -> TensorChange:
    if before is None:
        return TensorChange(name, ADDED, _words(after))
    if (before.dtype, before.shape) != (after.dtype, after.shape):
        return TensorChange(name, RESHAPED, f"{_words(before)}, now {_words(after)}")
    sums = sides[0].checksum(before), sides[1].checksum(after)
    if None in sums:
        return TensorChange(name, UNTOLD, _words(after))
    state = SAME if sums[0] == sums[1] else CHANGED
    return TensorChange(name, state, _words(after))


def _words(entry: TensorEntry) -> str:
    shape = " x ".join(map(str, entry.shape[:8])) or "scalar"
    return f"{clip(entry.dtype, 20)} {shape}"


def _number(value: object) -> float | None:
    return finite(float(value)) if isinstance(value, int | float) else None
