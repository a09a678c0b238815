"""The trainer's command line: find the command, catch what the world did.

Nothing heavy is imported before the command is known. Of all ranks only rank 0
says what went wrong, since all raise the same error; a rank whose own fault it
was shows where.
"""

import contextlib
import importlib
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import NamedTuple

from agent.rundir.errors import EXIT_INTERNAL, EXIT_USAGE, RunDirError
from trainer.console import complain

Main = Callable[[list[str]], int]


class Command(NamedTuple):
    """One word of the command line."""

    place: str
    """`module:function`; the function takes the rest and returns an exit code."""
    what: str


COMMANDS = {
    "launch ddp": Command("trainer.commands.launch:main", "start a run under torchrun"),
    "launch fl": Command("trainer.federated.launch:main", "start a federated run"),
    "ddp": Command("trainer.commands.gpt_run:main", "be one rank of such a run"),
    "fl-server": Command("trainer.federated.server:main", "serve federated rounds"),
    "fl-client": Command("trainer.federated.client:main", "take part in rounds"),
    "resume": Command("trainer.commands.resume:main", "start the next attempt"),
    "pin": Command("trainer.commands.pin:pin", "keep a checkpoint for ever"),
    "unpin": Command("trainer.commands.pin:unpin", "let retention have it again"),
    "discard": Command(
        "trainer.commands.discard:main", "remove checkpoints that were set aside"
    ),
    "prove-resume": Command(
        "trainer.commands.prove_resume:main",
        "kill a run, resume it, compare",
    ),
    "verify-deep": Command(
        "trainer.checkpoint.deep:main", "look at a checkpoint's values"
    ),
    "compare": Command(
        "trainer.checkpoint.compare:main", "measure how two checkpoints differ"
    ),
    "restore": Command(
        "trainer.chunks.commands:restore_main", "write a round to a file"
    ),
    "repair": Command("trainer.chunks.commands:repair_main", "replace damaged chunks"),
    "prune": Command("trainer.chunks.commands:prune_main", "drop old rounds"),
    "diff": Command("trainer.chunks.commands:diff_main", "measure how rounds differ"),
    "export-foreign": Command(
        "trainer.chunks.commands:foreign_main", "read a foreign chunk database"
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        sys.stdout.write(usage())
        return 0 if arguments else EXIT_USAGE
    try:
        run, rest = _find(arguments)
        return run(rest)
    except RunDirError as error:
        _tell(error)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except Exception:  # noqa: BLE001 - the outermost frame: nobody else is left to tell
        traceback.print_exc()
        return EXIT_INTERNAL


def usage() -> str:
    """Return what `--help` prints."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {command.what}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "usage: python -m trainer COMMAND …",
            "",
            *lines,
            "",
            "python -m trainer COMMAND --help tells more about each.",
            "",
        ]
    )


def _find(arguments: list[str]) -> tuple[Main, list[str]]:
    """Return the function of a command, and what is left for it."""
    for num_words in (2, 1):
        name = " ".join(arguments[:num_words])
        if name in COMMANDS:
            return _load(name), arguments[num_words:]
    from trainer.settings import UsageError, nearest  # noqa: PLC0415 - only on the way out

    name = " ".join(arguments[: 2 if arguments[0] == "launch" else 1])
    near = nearest(name, COMMANDS)
    raise UsageError(
        f"unknown command `{name}`" + (f": did you mean `{near}`" if near else ""),
        hint="python -m trainer --help",
    )


def _load(name: str) -> Main:
    module_name, _, function_name = COMMANDS[name].place.partition(":")
    module = importlib.import_module(module_name)
    function: Main = getattr(module, function_name)
    return function


def _tell(error: RunDirError) -> None:
    cause = error.__cause__
    is_own_fault = error.exit_code == EXIT_INTERNAL and cause is not None
    with contextlib.suppress(OSError):
        if is_own_fault and not isinstance(cause, RunDirError):
            traceback.print_exception(cause)
    if os.environ.get("RANK", "0") == "0":
        complain(error)
