"""What this operator likes, in one TOML file: the theme.

Only the line that changes is written; what else somebody put there stays. A
file that cannot be read is no wish, and never an error.
"""

import re
import tomllib
from pathlib import Path

from agent.rundir.atomic import write_atomic

_MAX_BYTES = 1 << 20
_THEME = re.compile(r"^[ \t]*theme[ \t]*=.*$", re.MULTILINE)
_TABLE = re.compile(r"^[ \t]*\[", re.MULTILINE)


def read_theme(path: Path) -> str | None:
    """Return the theme that was chosen last; None: none was."""
    try:
        wanted = tomllib.loads(_text(path)).get("theme")
    except (OSError, ValueError, RecursionError):
        return None
    return wanted if isinstance(wanted, str) else None


def write_theme(path: Path, name: str) -> None:
    """Remember a theme, whatever else the file says.

    Args:
        path: The file; made with its directories if there is none.
        name: One of the program's own, so that it needs no quoting.

    Raises:
        OSError: it cannot be read or written.
        UnicodeDecodeError: it is no text.
    """
    try:
        text = _text(path)
    except FileNotFoundError:
        text = ""
    line = f'theme = "{name}"'
    tables = _TABLE.search(text)
    head, rest = (
        (text[: tables.start()], text[tables.start() :]) if tables else (text, "")
    )
    head, num_replaced = _THEME.subn(line, head, count=1)
    head = head if num_replaced else f"{line}\n{head}"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, (head + rest).encode())


def _text(path: Path) -> str:
    with path.open("rb") as file:
        return file.read(_MAX_BYTES).decode("utf-8")
