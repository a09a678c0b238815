"""Another run takes a run directory's place while somebody works there."""

from agent.rundir.layout import RunDir
from agent.start import begin_run


def other_run(folder, kind):
    """Make a run that somebody else has begun and left; return its directory."""
    start = begin_run(folder, kind=kind)
    start.record()
    start.release()
    RunDir(folder).checkpoints.mkdir()
    return folder


def replace(run_dir, other):
    """Move a run away and another one to its path; return where the first is now."""
    moved = run_dir.with_name(f"{run_dir.name}-moved")
    run_dir.rename(moved)
    other.rename(run_dir)
    return moved


def contents(folder):
    """Return every file with its bytes, and every folder, by path."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }
