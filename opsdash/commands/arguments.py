"""The words and flags of the command line; nothing is imported to know them."""

import argparse
import difflib
import sys
from pathlib import Path
from typing import NoReturn

from agent.rundir.errors import EXIT_USAGE, RunDirError
from opsdash.operations.renaming import parse_pair

FAULTS = ("straggler", "hang", "corrupt", "kill", "reconnect")
LEVELS = ("structure", "content", "deep")
_ASCII_THEMES = "dark, light, ansi-dark, ansi-light"


class UsageError(RunDirError):
    """The command line cannot be understood."""

    exit_code = EXIT_USAGE


class Parser(argparse.ArgumentParser):
    """An argument parser that raises, so that all errors are told in one way."""

    def error(self, message: str) -> NoReturn:
        """Raise what argparse would print."""
        text = message[:1].lower() + message[1:]
        raise UsageError(text, hint=f"{self.prog} --help")


def parse(argv: list[str]) -> argparse.Namespace:
    """Return what was asked for; `command` names it.

    Raises:
        UsageError: it cannot be understood.
        SystemExit: help or the version was asked for, and printed.
    """
    parser = _parser()
    words = [word for word in argv if not word.startswith("-")]
    if words and words[0] not in COMMANDS:
        near = difflib.get_close_matches(words[0], COMMANDS, n=1)
        meant = f": did you mean `{near[0]}`" if near else ""
        raise UsageError(f"unknown command `{words[0]}`{meant}", hint="opsdash --help")
    arguments = parser.parse_args(argv)
    if arguments.command is None:
        raise UsageError("no command was given", hint="opsdash --help")
    return arguments


def _parser() -> Parser:
    parser = Parser(
        prog="opsdash",
        description="Watch a run directory from a terminal, and act on it.",
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    for name, (what, add) in COMMANDS.items():
        add(commands.add_parser(name, help=what, description=_sentence(what)))
    return parser


def _attach(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "run_dir",
        nargs="?",
        type=Path,
        metavar="RUN_DIR",
        help="a run, or a directory of runs (default: the newest run below here)",
    )
    parser.add_argument(
        "--follow",
        action="store_true",
        help="without a terminal: tell the run as text until it ends",
    )
    _screen(parser)


def _screen(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--readonly", action="store_true", help="take the keys that act away"
    )
    parser.add_argument("--theme", metavar="NAME", help=f"one of: {_ASCII_THEMES}")
    parser.add_argument("--ascii", action="store_true", help="draw with ASCII only")
    parser.add_argument("--no-mouse", action="store_true", help="leave the mouse alone")


def _pane(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_dir", type=Path, metavar="RUN_DIR")
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.add_argument(
        "--follow",
        action="store_true",
        help="go on until the run ends; with --json one object per line",
    )
    parser.add_argument(
        "--idle-timeout",
        type=_seconds,
        metavar="S",
        help="stop following when nothing came for so many seconds",
    )


def _events(parser: argparse.ArgumentParser) -> None:
    _pane(parser)
    parser.add_argument(
        "--all", action="store_true", help="those of every step and second too"
    )
    parser.add_argument(
        "--last",
        type=_count,
        default=100,
        metavar="N",
        help="the newest N (default: 100; 0: all that are kept)",
    )


def _chunks(parser: argparse.ArgumentParser) -> None:
    _pane(parser)
    parser.add_argument(
        "--node", help="`server` or a client's key: the rounds of its store"
    )
    parser.add_argument(
        "--round",
        type=_count,
        dest="round_num",
        metavar="K",
        help="of that store: the chunks of this round",
    )
    parser.add_argument(
        "--diff",
        type=_count,
        metavar="K2",
        help="which tensors changed from round K to round K2",
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--verify", action="store_true", help="read every chunk again, of all stores"
    )
    what.add_argument(
        "--repair",
        action="store_true",
        help="mend a store from the others, while nobody runs",
    )
    _plan(parser)


def _verify(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "paths",
        nargs="+",
        type=Path,
        metavar="PATH",
        help="a checkpoint, a file, a chunk store, or a run: all that it holds",
    )
    parser.add_argument(
        "--level",
        choices=LEVELS,
        default="content",
        help="headers, every byte, or values too (default: content)",
    )
    parser.add_argument("--json", action="store_true", help="for programs")


def _resume(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_dir", type=Path, metavar="RUN_DIR")
    parser.add_argument(
        "--from",
        dest="checkpoint",
        metavar="NAME",
        help="this checkpoint (default: the newest that is sound)",
    )
    parser.add_argument("--dry-run", action="store_true", help="show the plan only")
    parser.add_argument(
        "--follow", action="store_true", help="tell the run as text until it ends"
    )


def _request(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_dir", type=Path, metavar="RUN_DIR")
    parser.add_argument(
        "kind",
        metavar="KIND",
        help="checkpoint-now, stop, pause, continue, resume, restore, verify, pin, "
        "unpin, repair, stacks or profile",
    )
    parser.add_argument("--checkpoint", metavar="NAME", help="of resume, verify, pin")
    parser.add_argument("--level", choices=LEVELS, help="of verify")
    parser.add_argument("--path", help="of verify: a file inside the run")
    parser.add_argument("--ranks", type=_numbers, metavar="N,N", help="of stacks")
    parser.add_argument("--steps", type=_count, metavar="N", help="of profile")
    parser.add_argument("--node", help="of restore, repair: `server` or a client's key")
    parser.add_argument("--round", type=_count, dest="round_num", help="of restore")
    parser.add_argument("--tensors", metavar="GLOB", help="of restore")
    _mapping(parser, help="of restore: another name in the model; may be repeated")
    _carefully(parser)


def _restore(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_dir", type=Path, metavar="RUN_DIR")
    parser.add_argument("--node", required=True, help="`server` or a client's key")
    parser.add_argument("--round", type=_count, required=True, dest="round_num")
    parser.add_argument("--tensors", metavar="GLOB", help="names; all by default")
    _mapping(parser, help="another name for a tensor; may be repeated")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--to", type=Path, metavar="FILE", help=".pt or .safetensors")
    where.add_argument("--live", action="store_true", help="the running federation")
    _carefully(parser)


def _mapping(parser: argparse.ArgumentParser, *, help: str) -> None:  # noqa: A002 - argparse's name for it
    parser.add_argument(
        "--map",
        action="append",
        type=_pair,
        dest="mapping",
        metavar="OLD=NEW",
        help=help,
    )


def _plan(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dry-run", action="store_true", help="show the plan only")
    parser.add_argument(
        "--yes", action="store_true", help="confirm what cannot be undone"
    )


def _carefully(parser: argparse.ArgumentParser) -> None:
    _plan(parser)
    parser.add_argument(
        "--no-wait", action="store_true", help="do not wait for the outcome"
    )


def _demo(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "kind",
        nargs="?",
        choices=("ddp", "fl"),
        default="ddp",
        help="two data-parallel ranks, or a federation of three (default: ddp)",
    )
    parser.add_argument(
        "--fault",
        choices=FAULTS,
        help="make the run sick, to learn what that looks like",
    )
    _screen(parser)


def _doctor(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_dir", nargs="?", type=Path, metavar="RUN_DIR")


def _nothing(_parser: argparse.ArgumentParser) -> None:
    return


COMMANDS = {
    "attach": ("watch a run, and act on it", _attach),
    "demo": ("train a small model here and watch it", _demo),
    "status": ("is it alive, and what would be lost", _pane),
    "events": ("what happened, in words", _events),
    "barriers": ("who waits where, and who costs what", _pane),
    "checkpoints": ("what is saved, and whether it resumes", _pane),
    "optimizer": ("norms, and what broke their flow", _pane),
    "chunks": ("the chunk stores of a federated run", _chunks),
    "rounds": ("federated rounds and clients", _pane),
    "verify": ("read checkpoints again, every byte", _verify),
    "resume": ("go on from the newest sound checkpoint", _resume),
    "request": ("ask the running trainer for something", _request),
    "restore": ("put a federated round into a file, or back to life", _restore),
    "doctor": ("what this terminal, host and disk can do", _doctor),
    "paths": ("where opsdash keeps what is its own", _nothing),
}


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"`{text}` is no number of seconds")
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"`{text}` is less than 0")
    return value


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(_count(number) for number in text.split(","))


def _pair(text: str) -> tuple[str, str]:
    try:
        return parse_pair(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _sentence(what: str) -> str:
    return f"{what[:1].upper()}{what[1:]}."


class _Version(argparse.Action):
    """Look the version up only when it is asked for: that takes 20 ms."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,  # noqa: ARG002 - argparse's signature
        values: object,  # noqa: ARG002 - argparse's signature
        option_string: str | None = None,  # noqa: ARG002 - argparse's signature
    ) -> None:
        from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415 - see above

        try:
            found = version("opsdash")
        except PackageNotFoundError:
            found = "(not installed)"
        sys.stdout.write(f"opsdash {found}\n")
        parser.exit()
