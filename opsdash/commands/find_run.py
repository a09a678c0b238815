"""Which run is meant when none was named: the one that was started last."""

import os
from collections.abc import Iterator
from pathlib import Path

from agent.rundir.errors import NotARunError
from agent.rundir.layout import RunDir

_MAX_DEPTH = 4
_MAX_DIRECTORIES = 20_000


def find_run(path: Path | None) -> Path:
    """Return a run directory: the given one, or the newest below it.

    Args:
        path: A run directory or a directory of runs; None: the current one.

    Raises:
        NotARunError: there is none.
    """
    root = path or Path()
    if (root / "run.json").exists() or (path is not None and not root.is_dir()):
        return root
    found = max(_runs_below(root), key=_started_ns, default=None)
    if found is None:
        where = f"below `{root.absolute()}`" if path is None else f"in `{root}`"
        raise NotARunError(
            f"there is no run {where}: no directory has a `run.json`",
            hint="opsdash demo   # makes one to look at",
        )
    return found


def _runs_below(root: Path) -> Iterator[Path]:
    """Yield run directories, not looking into them, nor into hidden directories."""
    pending, num_seen = [(root, 0)], 0
    while pending and num_seen < _MAX_DIRECTORIES:
        directory, depth = pending.pop()
        num_seen += 1
        try:
            with os.scandir(directory) as entries:
                found = list(entries)
        except OSError:
            continue
        if any(entry.name == "run.json" for entry in found):
            yield directory
        elif depth < _MAX_DEPTH:
            pending += [
                (Path(entry.path), depth + 1)
                for entry in found
                if not entry.name.startswith(".")
                and entry.is_dir(follow_symlinks=False)
            ]


def _started_ns(path: Path) -> int:
    """Return when the newest attempt was recorded, by its folder's time."""
    run = RunDir(path)
    times = [0]
    for place in (run.identity, run.attempts):
        try:
            times.append(place.stat().st_mtime_ns)
        except OSError:
            continue
    return max(times)
