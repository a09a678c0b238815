"""Remove checkpoints that were set aside: quarantined, superseded or damaged.

Without a name nothing goes: what could go is listed, with its size.
"""

from pathlib import Path

from agent.rundir.attempts import read_identity
from agent.rundir.layout import RunDir
from trainer.checkpoint.discard import (
    discard,
    find_set_aside,
    list_set_aside,
    num_bytes,
)
from trainer.console import say
from trainer.settings import UsageParser


def main(arguments: list[str]) -> int:
    """Run `python -m trainer discard RUN_DIR [NAME…|--all]`."""
    parser = UsageParser(prog="python -m trainer discard", description=__doc__)
    parser.add_argument("run_dir", type=Path, metavar="RUN_DIR")
    parser.add_argument("names", nargs="*", metavar="NAME", help="as on the disk")
    parser.add_argument("--all", action="store_true", help="all that is listed")
    known = parser.parse(arguments)
    run = RunDir(known.run_dir.absolute())
    read_identity(run)
    named = [find_set_aside(run, name) for name in dict.fromkeys(known.names)]
    chosen = named or list_set_aside(run)
    is_listing = not (known.names or known.all)
    for entry in chosen:
        size = num_bytes(entry.path)
        if not is_listing:
            discard(run, [entry])
        word = "has" if is_listing else "is gone, it had"
        say(f"`{entry.path.name}` ({entry.stage}) {word} {size:,} bytes")
    if not chosen:
        say("nothing is set aside")
    elif is_listing:
        say(f"python -m trainer discard {run.path} --all   # removes them for good")
    return 0
