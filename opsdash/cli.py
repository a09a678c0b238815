"""The dashboard's command line: find the command, tell what went wrong, once.

Nothing heavy is imported before the command is known: help, version and every
headless command work without Textual, and nothing here ever loads torch.
"""

import importlib
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType

from agent.rundir.errors import EXIT_INTERNAL, RunDirError
from opsdash.commands.arguments import parse
from opsdash.commands.console import (
    complain,
    complain_lines,
    forget_output,
    use_safe_output,
)
from opsdash.commands.lean import without_collecting

_PANES = ("status", "barriers", "checkpoints", "optimizer", "rounds")
_ENDING = (signal.SIGTERM, signal.SIGHUP)


class Ended(BaseException):
    """A signal asked this process to leave."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.exit_code = 128 + number


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code (docs/exit-codes.md)."""
    use_safe_output()
    for number in _ENDING:
        if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup sets it
            signal.signal(number, _end)
    try:
        return _run(list(sys.argv[1:] if argv is None else argv))
    except RunDirError as error:
        complain(error)
        return error.exit_code
    except BrokenPipeError:
        forget_output()
        return 128 + signal.SIGPIPE
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except Ended as ended:
        return ended.exit_code
    except Exception as error:  # noqa: BLE001 - the outermost frame: nobody else is left to tell
        return _crashed(error)


def _run(argv: list[str]) -> int:
    try:
        arguments = parse(argv)
    except SystemExit:  # argparse has printed the help or the version
        return 0
    name = "panes" if arguments.command in _PANES else arguments.command
    with without_collecting():
        module = importlib.import_module(f"opsdash.commands.{name}")
    command: Callable[[object], int] = module.main
    return command(arguments)


def _end(number: int, _frame: FrameType | None) -> None:
    raise Ended(number)


def _crashed(error: Exception) -> int:
    """Keep the whole story in a file and tell where it is."""
    from opsdash.commands.paths import crash_dir  # noqa: PLC0415 - only on the way out

    story = "".join(traceback.format_exception(error))
    text = f"opsdash {' '.join(sys.argv[1:])}\npython {sys.version}\n\n{story}"
    path = _write_crash(crash_dir(), text)
    where = "it could not be written down" if path is None else f"the story: `{path}`"
    complain_lines(
        f"this is a fault of opsdash: {type(error).__name__}: {error} ({where})",
        None if path is None else f"less {path}",
    )
    return EXIT_INTERNAL


def _write_crash(directory: Path, text: str) -> Path | None:
    """Write a report where it may be found, or where it can be written at all."""
    name = f"crash-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.log"
    for place in (directory, Path(tempfile.gettempdir())):
        try:
            place.mkdir(parents=True, exist_ok=True)
            path = place / name
            with path.open("x", encoding="utf-8", errors="backslashreplace") as file:
                file.write(text)
        except OSError:
            continue
        return path
    return None
