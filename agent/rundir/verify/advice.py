"""What to do about a verdict, with a command to paste where one helps."""

import shlex
from pathlib import Path

from agent.rundir.layout import MANIFEST_NAME, parse_checkpoint_name
from agent.rundir.verify.verdict import Level, State


def advise(path: Path, state: State, level: Level, file_format: str) -> str:
    """Return one or two sentences for the operator.

    Args:
        path: that was verified.
        state: what was found.
        level: how far was looked.
        file_format: as in the verdict.
    """
    if state is State.SOUND:
        return _advise_sound(path, level)
    if state is State.NO_CHECKSUM:
        return (
            "nothing on disk could show a changed value: load it and look, or save "
            "again with a manifest (`python -m trainer` writes one)"
        )
    if state is State.NON_CANONICAL:
        return (
            "it can be loaded; if you did not repack it yourself, ask where it comes "
            "from"
        )
    if state is State.UNREADABLE:
        return f"look at what it is: `ls -la {_quoted(path)}`"
    return _advise_bad(path, file_format)


def _advise_sound(path: Path, level: Level) -> str:
    if level is Level.STRUCTURE:
        return (
            "only the structure was looked at; every byte: "
            f"`opsdash verify {_quoted(path)}`"
        )
    return "nothing to do"


def _advise_bad(path: Path, file_format: str) -> str:
    previous = _previous_checkpoint(path)
    if previous is not None:
        run_dir = _quoted(previous.parent.parent)
        return (
            f"do not load it. Verify the one before, `opsdash verify "
            f"{_quoted(previous)}`, then start from it: `opsdash resume {run_dir} "
            f"--from {previous.name}`"
        )
    if file_format == "checkpoint":
        return "do not load it; there is no earlier checkpoint beside it"
    return "do not load it; fetch it again from where it came from, or save it again"


def _previous_checkpoint(path: Path) -> Path | None:
    """Return the newest published checkpoint with a lower number beside it."""
    own = parse_checkpoint_name(path.name)
    if own is None or path.parent.name != "checkpoints":
        return None
    found: list[tuple[int, Path]] = []
    try:
        for sibling in path.parent.iterdir():
            parsed = parse_checkpoint_name(sibling.name)
            if (
                parsed is not None
                and parsed.kind == own.kind
                and parsed.number < own.number
                and (sibling / MANIFEST_NAME).is_file()
            ):
                found.append((parsed.number, sibling))
    except OSError:
        return None
    return max(found)[1] if found else None


def _quoted(path: Path) -> str:
    return shlex.quote(ascii(str(path))[1:-1])
