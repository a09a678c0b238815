"""What the terminal can show."""

import locale
import os
import shutil
import sys
from collections.abc import Iterator

from opsdash.commands.checks import Check, Mark
from opsdash.commands.console import has_terminal

_LEAST = (80, 24)


def check_terminal() -> Iterator[Check]:
    """Look at size, colours, encoding and multiplexers."""
    if not has_terminal():
        yield Check(
            Mark.NOTE,
            "screen",
            "none here: stdin or stdout is no terminal, or TERM is dumb",
            "attach prints text instead",
        )
    size = shutil.get_terminal_size()
    is_big = size.columns >= _LEAST[0] and size.lines >= _LEAST[1]
    yield Check(
        Mark.OK if is_big else Mark.WARN,
        "size",
        f"{size.columns} x {size.lines}",
        "" if is_big else "80 x 24 shows everything",
    )
    yield _colours()
    yield _encoding()
    if "TMUX" in os.environ or os.environ.get("TERM", "").startswith("screen"):
        yield Check(
            Mark.NOTE,
            "multiplexer",
            "tmux or screen",
            "to copy over ssh: set -g set-clipboard on",
        )


def _colours() -> Check:
    term = os.environ.get("TERM", "")
    if "NO_COLOR" in os.environ:
        return Check(Mark.NOTE, "colours", "off, because NO_COLOR is set")
    if os.environ.get("COLORTERM", "") in ("truecolor", "24bit"):
        return Check(Mark.OK, "colours", f"16 million (TERM={term})")
    number = "256" if "256" in term else "16"
    return Check(
        Mark.NOTE,
        "colours",
        f"{number} announced (TERM={term or 'unset'}): the 16-colour theme is used",
        "export COLORTERM=truecolor if the terminal has them",
    )


def _encoding() -> Check:
    encoding = getattr(sys.stdout, "encoding", None) or locale.getpreferredencoding()
    if encoding.lower().replace("-", "") == "utf8":
        return Check(Mark.OK, "encoding", encoding)
    return Check(Mark.WARN, "encoding", encoding, "charts need UTF-8, or use --ascii")
