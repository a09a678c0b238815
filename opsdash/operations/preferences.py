"""What this operator likes, in one TOML file: the theme.

Only the line that changes is written; what else somebody put there stays. A
file that cannot be read is no wish, and never an error. A home on a mount that
died holds up the thread that writes, and nobody else.
"""

import re
import threading
import tomllib
from collections.abc import Callable
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


class ThemeMemory:
    """Remembers the theme that was chosen last, in a thread while there is one."""

    def __init__(self, path: Path, on_trouble: Callable[[str], None]) -> None:
        """Prepare to write to `path`; `on_trouble` is called in that thread."""
        self._path, self._on_trouble = path, on_trouble
        self._lock = threading.Lock()
        self._wanted: str | None = None
        """Not written yet; None: all is, or a write of the newest is under way."""
        self._thread: threading.Thread | None = None
        """That writes; None: there is nothing to write."""

    def remember(self, name: str) -> None:
        """Have a theme written; of those that wait the newest counts."""
        with self._lock:
            self._wanted = name
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._work, name="opsdash-theme", daemon=True
                )
                self._thread.start()

    def wait(self, patience_s: float) -> None:
        """Give what was chosen a moment to be written: the program ends."""
        thread = self._thread
        if thread is not None:
            thread.join(patience_s)

    def _work(self) -> None:
        while (name := self._next()) is not None:
            try:
                write_theme(self._path, name)
            except (OSError, UnicodeDecodeError) as error:
                self._on_trouble(str(error))

    def _next(self) -> str | None:
        with self._lock:
            name, self._wanted = self._wanted, None
            if name is None:
                self._thread = None
            return name


def _text(path: Path) -> str:
    with path.open("rb") as file:
        return file.read(_MAX_BYTES).decode("utf-8")
