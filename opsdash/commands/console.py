"""Lines to the terminal: every one made visible, and nothing lost on the way out."""

import codecs
import contextlib
import os
import sys
from collections.abc import Iterable

from agent.rundir.errors import RunDirError
from opsdash.units import MICRO, visible

_SAFELY = "opsdash-safely"
"""What to do about characters that an encoding lacks."""


def say(*lines: str) -> None:
    """Write lines to standard output, now; text from disk cannot act there.

    Raises:
        BrokenPipeError: whoever read them has left.
    """
    for line in lines:
        sys.stdout.write(f"{visible(line)}\n")
    sys.stdout.flush()


def write(text: str) -> None:
    """Write text as it is; only for what this program made, such as JSON."""
    sys.stdout.write(text)
    sys.stdout.flush()


def complain(error: RunDirError) -> None:
    """Write what is wrong and what helps to standard error, a line each."""
    complain_lines(str(error), error.hint)


def complain_lines(message: str, hint: str | None) -> None:
    """Write one `error:` line and, if there is one, a `hint:` line."""
    lines = [f"error: {visible(message)}"]
    if hint:
        lines.append(f"hint: {visible(hint)}")
    with contextlib.suppress(OSError):
        sys.stderr.write("\n".join(lines) + "\n")
        sys.stderr.flush()


def use_safe_output() -> None:
    """Have characters that the terminal's encoding lacks written as escapes."""
    codecs.register_error(_SAFELY, _without)
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors=_SAFELY)


def has_terminal() -> bool:
    """Whether a screen can be drawn: both ends are a terminal that moves a cursor."""
    is_dumb = os.environ.get("TERM", "dumb") in ("", "dumb")
    return sys.stdin.isatty() and sys.stdout.isatty() and not is_dumb


def forget_output() -> None:
    """Let the interpreter's last flush go nowhere, after the reader has left."""
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, sys.stdout.fileno())
    os.close(devnull)


def _without(error: UnicodeError) -> tuple[str | bytes, int]:
    """Return what stands for characters that an encoding lacks, and where it ends."""
    if isinstance(error, UnicodeEncodeError) and error.object[error.start] == MICRO:
        return "u", error.start + 1
    return codecs.backslashreplace_errors(error)


def joined(lines: Iterable[str]) -> str:
    """Return lines as one text."""
    return "\n".join(lines)
