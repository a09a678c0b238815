"""Pin a checkpoint, so that retention leaves it alone, or unpin it."""

from pathlib import Path

from agent.rundir.attempts import read_identity
from agent.rundir.layout import RunDir
from agent.rundir.process import user_at_host
from trainer.checkpoint.retention import set_pin
from trainer.console import say
from trainer.settings import UsageParser


def pin(arguments: list[str]) -> int:
    """Run `python -m trainer pin RUN_DIR NAME`."""
    return _set(arguments, is_pinned=True)


def unpin(arguments: list[str]) -> int:
    """Run `python -m trainer unpin RUN_DIR NAME`."""
    return _set(arguments, is_pinned=False)


def _set(arguments: list[str], *, is_pinned: bool) -> int:
    word = "pin" if is_pinned else "unpin"
    parser = UsageParser(prog=f"python -m trainer {word}", description=__doc__)
    parser.add_argument("run_dir", type=Path, metavar="RUN_DIR")
    parser.add_argument("checkpoint", metavar="NAME")
    known = parser.parse(arguments)
    run = RunDir(known.run_dir.absolute())
    read_identity(run)
    entry = set_pin(run, known.checkpoint, is_pinned=is_pinned, by=user_at_host())
    say(f"`{entry.name}` is {word}ned")
    return 0
