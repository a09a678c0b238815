"""Which run is meant when none was named: the one that was started last."""

from itertools import islice
from pathlib import Path

from agent.rundir.errors import NotARunError
from opsdash.feed.runs import runs_below, started_ns


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
    found = max(runs_below(root), key=started_ns, default=None)
    if found is None:
        where = f"below `{root.absolute()}`" if path is None else f"in `{root}`"
        raise NotARunError(
            f"there is no run {where}: no directory has a `run.json`",
            hint="opsdash demo   # makes one to look at",
        )
    return found


def has_several_runs(path: Path) -> bool:
    """Whether a path is a directory of runs, more than one, and no run itself."""
    if (path / "run.json").exists():
        return False
    return len(list(islice(runs_below(path), 2))) > 1
