"""A terminal in memory with a real program in it.

The program gets a pseudo-terminal of its own session, so signals, resizes and
terminal modes are the real ones. Waiting is for what the screen shows, never
for a time; a wait that is in vain fails with the screen as it is.
"""

import base64
import codecs
import contextlib
import fcntl
import os
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pyte

# The child makes the pseudo-terminal its controlling one, then becomes the
# program: forking here instead would copy the threads of the test run.
_BECOME = (
    "import fcntl, os, sys, termios;"
    "fcntl.ioctl(0, termios.TIOCSCTTY, 0);"
    "os.execvp(sys.argv[1], sys.argv[1:])"
)
# pyte prints the end of sequences that it does not know.
_UNKNOWN_TO_PYTE = re.compile(r"\x1b\[[<>=][0-9;]*[A-Za-z]|\x1b\[\?[0-9;]*\$p")
_UNFINISHED = re.compile(r"\x1b(\[[0-9;<>=?$]*)?\Z")
_CLIPBOARD = re.compile(rb"\x1b\]52;c;([A-Za-z0-9+/=]*)\x07")
# Alternate screen, mouse, focus and paste reports: off again when it leaves.
_MODES = (1049, 1000, 1003, 1006, 1004, 2004)


class _Screen(pyte.Screen):
    """A screen that remembers what is dim: pyte has no place for it but `blink`."""

    def select_graphic_rendition(self, *attributes: int, **kwargs: bool) -> None:
        super().select_graphic_rendition(*attributes)
        rest = list(attributes)
        while rest:
            attribute = rest.pop(0)
            if attribute in (38, 48):  # a colour: `2` in it is no attribute
                del rest[: 4 if rest[:1] == [2] else 2]
            elif attribute in (0, 2, 22):
                dim = attribute == 2
                self.cursor.attrs = self.cursor.attrs._replace(blink=dim)


class PtyTerminal:
    """A program under a pseudo-terminal; leaving the context ends it."""

    def __init__(
        self,
        argv: Sequence[str | Path],
        *,
        columns: int = 80,
        rows: int = 24,
        env: Mapping[str, str | None] | None = None,
        cwd: Path | None = None,
    ) -> None:
        """Start `argv`; in `env`, None takes a variable away."""
        self.terminal = _Screen(columns, rows)
        self.output = bytearray()
        """Everything that the program sent."""
        self._stream = pyte.Stream(self.terminal)
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self._held_back = ""
        self._is_open = True
        self._fd, inner = os.openpty()
        self._set_size(columns, rows)
        self._process = subprocess.Popen(
            [sys.executable, "-c", _BECOME, *map(str, argv)],
            stdin=inner,
            stdout=inner,
            stderr=inner,
            start_new_session=True,
            env=_environment(env or {}),
            cwd=cwd,
        )
        os.close(inner)

    def __enter__(self) -> "PtyTerminal":
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        os.close(self._fd)

    @property
    def pid(self) -> int:
        """The program's process, also the leader of its session."""
        return self._process.pid

    @property
    def text(self) -> str:
        """The screen, trailing blanks cut."""
        return "\n".join(line.rstrip() for line in self.terminal.display)

    @property
    def num_bytes(self) -> int:
        """How much the program sent so far."""
        return len(self.output)

    @property
    def clipboard(self) -> str | None:
        """What the program last put into the clipboard (OSC 52)."""
        found = _CLIPBOARD.findall(self.output)
        return base64.b64decode(found[-1]).decode() if found else None

    @property
    def is_restored(self) -> bool:
        """Whether every mode that the program set is off and the cursor is shown."""
        return all(self._last_switch(mode) != b"h" for mode in _MODES) and (
            self._last_switch(25) != b"l"
        )

    def send(self, keys: str) -> None:
        """Type; `\x1b` is escape, `\r` is enter."""
        os.write(self._fd, keys.encode())

    def close(self) -> None:
        """Close the window, as an operator or a lost connection does."""
        nothing = os.open(os.devnull, os.O_RDWR)
        os.dup2(nothing, self._fd)  # the number stays taken until the program ended
        os.close(nothing)
        self._is_open = False

    def resize(self, columns: int, rows: int) -> None:
        """Change the size of the terminal."""
        self.terminal.resize(lines=rows, columns=columns)
        self._set_size(columns, rows)

    def signal(self, signum: int) -> None:
        """Send a signal to the program alone."""
        os.kill(self._process.pid, signum)

    def wait_for(self, text: str, timeout_s: float = 30) -> None:
        """Wait until the screen shows `text`."""
        self.wait_until(lambda: text in self.text, f"`{text}` on the screen", timeout_s)

    def wait_until(
        self, is_so: Callable[[], bool], what: str, timeout_s: float = 30
    ) -> None:
        """Wait until `is_so()`, reading on; fail if the program ends before."""
        deadline = time.monotonic() + timeout_s
        while not is_so():
            if not self._is_open:
                raise AssertionError(f"it ended without {what}:\n{self.text}")
            if time.monotonic() > deadline:
                raise AssertionError(f"no {what} in {timeout_s} s:\n{self.text}")
            self._read(0.05)

    def settle(self, quiet_s: float = 0.3) -> None:
        """Read until nothing came for `quiet_s`: to count bytes, not to wait."""
        while self._read(quiet_s):
            pass

    def exit_code(self, timeout_s: float = 30) -> int:
        """Wait for the end; negative is the signal that killed it."""
        deadline = time.monotonic() + timeout_s
        while self._process.poll() is None:
            if time.monotonic() > deadline:
                raise AssertionError(f"still running after {timeout_s} s:\n{self.text}")
            self._read(0.05)
        while self._read(0):
            pass
        return self._process.returncode

    def _read(self, timeout_s: float) -> bool:
        """Feed what there is to the screen; False if nothing came."""
        if not self._is_open:
            time.sleep(timeout_s)
            return False
        data = self._receive(timeout_s)
        if not data:
            return False
        self.output += data
        text = self._held_back + self._decode(data)
        unfinished = _UNFINISHED.search(text)
        end = unfinished.start() if unfinished else len(text)
        self._held_back = text[end:]
        self._stream.feed(_UNKNOWN_TO_PYTE.sub("", text[:end]))
        return True

    def _receive(self, timeout_s: float) -> bytes:
        """Return what the program sent next; empty: nothing came, or it is over."""
        if not select.select([self._fd], [], [], timeout_s)[0]:
            return b""
        try:
            data = os.read(self._fd, 1 << 16)
        except OSError:  # Linux says EIO when the last program has gone
            data = b""
        self._is_open = bool(data)
        if b"\x1b[?2026$p" in data:
            os.write(self._fd, b"\x1b[?2026;2$y")  # yes, we can paint at once
        return data

    def _last_switch(self, mode: int) -> bytes | None:
        switches = re.findall(rb"\x1b\[\?%d([hl])" % mode, self.output)
        return switches[-1] if switches else None

    def _set_size(self, columns: int, rows: int) -> None:
        size = struct.pack("HHHH", rows, columns, 0, 0)
        fcntl.ioctl(self._fd, termios.TIOCSWINSZ, size)


def _environment(changes: Mapping[str, str | None]) -> dict[str, str]:
    env = dict(os.environ)
    # COLUMNS and LINES, which pytest's workers set, would beat the real size.
    for name in ("TMUX", "NO_COLOR", "COLORFGBG", "COLUMNS", "LINES"):
        env.pop(name, None)
    wanted: dict[str, str | None] = {
        "TERM": "xterm-256color",
        "COLORTERM": "truecolor",
        "LC_ALL": "C.UTF-8",
        **changes,
    }
    for name, value in wanted.items():
        env.pop(name, None)
        if value is not None:
            env[name] = value
    return env
