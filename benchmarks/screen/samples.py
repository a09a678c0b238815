"""What is measured of a dashboard under a terminal, one function for each figure.

Every function attaches anew and returns plain numbers; who calls them sets them
beside limits. A key is timed from when it is typed to when the bytes arrived
that show what it did.
"""

import random
import re
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

from benchmarks.screen.large_store import make_store
from benchmarks.screen.live import begin, finish_step, live_run
from benchmarks.screen.terminal import TimedTerminal, attach
from tests.runs import RunWriter

BAR = "1 overview"
_PANES = (
    ("2", "rank-seconds"),
    ("4", "gradient norm"),
    ("7", " step kind "),
    ("1", "seen at"),
)
_STEP = re.compile(r"rank-0 +\S+ +([\d,]+)")
_TYPED = "rank-00000"
_LETTERS = [(key, f"/ {_TYPED[: place + 1]}") for place, key in enumerate(_TYPED)]
"""A key, and how the line of the filter begins when it is shown."""


class Attached(NamedTuple):
    """One attach to a run that is over, seconds since the program was started."""

    first_s: float
    verdict_s: float
    cpu_s: float
    """CPU time when the verdict was there."""


class Cost(NamedTuple):
    """What watching a live run costs."""

    cpu_frac: float
    """Of one core."""
    reading_frac: float
    """Of one core: the threads beside the screen's, of which one reads."""
    bytes_per_s: float
    """To the terminal."""
    rss_bytes: int
    """At the end, of the program and of what launched it."""
    painting_bytes: int
    """Of the program alone."""


def first_and_verdict(run: Path, home: Path) -> Attached:
    """Attach to a long past; wait until the verdict is over all of it."""
    with attach(run, home) as terminal:
        first_s = terminal.shown_s(BAR)
        verdict_s = terminal.so_s(lambda: _is_read(terminal), "complete verdict")
        cpu_s = terminal.cpu_s
        began_s = terminal.began_s
    return Attached(first_s - began_s, verdict_s - began_s, cpu_s)


def _is_read(terminal: TimedTerminal) -> bool:
    head = "".join(terminal.line(number) for number in range(4))
    return "step" in head and "reading" not in head and "nothing was read" not in head


def key_delays(folder: Path, home: Path, num: int) -> tuple[list[float], list[float]]:
    """Change panes and type a filter while 5,000 lines a second arrive.

    Returns:
        Seconds from a key to what it shows: of panes, of letters.
    """
    panes, letters = [], []
    with (
        live_run(folder / "busy", ranks=8, steps_per_s=625) as run,
        attach(run, home) as terminal,
    ):
        terminal.shown_s("seen at")
        for key, text in _PANES:  # made at the first visit
            _press(terminal, key, text)
        terminal.so_s(lambda: "reading" not in terminal.line(1), "end of the backlog")
        for _ in range(num // len(_PANES)):
            panes += [_press(terminal, key, text) for key, text in _PANES]
        _press(terminal, "7", " step kind ")
        for _ in range(num // len(_TYPED)):
            terminal.send("/")
            terminal.pass_time(0.3)
            letters += [
                _type(terminal, letter, partial(_filter_begins, terminal, typed))
                for letter, typed in _LETTERS
            ]
            terminal.send("\x15")  # all that was typed is gone again
            terminal.so_s(lambda: _filter_begins(terminal, "/  "), "an empty filter")
            terminal.send("\r")
            terminal.pass_time(0.3)
    return panes, letters


def _press(terminal: TimedTerminal, key: str, text: str) -> float:
    return _type(terminal, key, lambda: text in terminal.text)


def _type(terminal: TimedTerminal, key: str, is_so: Callable[[], bool]) -> float:
    """Type a key at some moment; return how long until the screen is so."""
    terminal.pass_time(random.uniform(0.1, 0.4))
    if is_so():
        raise RuntimeError(f"it was so before `{key}`:\n{terminal.text}")
    typed_s = time.monotonic()
    terminal.send(key)
    return terminal.so_s(is_so, f"what `{key}` does") - typed_s


def _filter_begins(terminal: TimedTerminal, text: str) -> bool:
    return any(terminal.line(number).startswith(text) for number in range(2, 6))


def event_delays(folder: Path, home: Path, num: int) -> list[float]:
    """Write a step now and then; return how long each took to be on the screen."""
    run, found = begin(folder / "calm", ranks=4, past=300, step_s=1.0), []
    with attach(run.path, home) as terminal:
        terminal.shown_s("seen at")
        for step in range(301, 301 + num):
            terminal.pass_time(random.uniform(0.5, 1.2))
            written_s = time.monotonic()
            finish_step(run, step, 10**9)
            run.beat()
            shown_s = terminal.so_s(lambda at=step: _step(terminal) >= at, "the step")
            found.append(shown_s - written_s)
    return found


def _step(terminal: TimedTerminal) -> int:
    lines = "\n".join(terminal.line(number) for number in range(2, 8))
    found = _STEP.search(lines)
    return int(found[1].replace(",", "")) if found else 0


def live_cost(folder: Path, home: Path, *, ranks: int, seconds: float) -> Cost:
    """Watch a run at one step a second."""
    with (
        live_run(folder / f"live-{ranks}", ranks=ranks, steps_per_s=1) as run,
        attach(run, home) as terminal,
    ):
        terminal.shown_s("seen at")
        terminal.pass_time(5)
        return cost(terminal, seconds)


def cost(terminal: TimedTerminal, seconds: float) -> Cost:
    """Return what a program costs that is up already, over so many seconds."""
    before = terminal.cpu_s, terminal.helpers_cpu_s, terminal.num_bytes
    began_s = time.monotonic()
    terminal.pass_time(seconds)
    took_s = time.monotonic() - began_s
    return Cost(
        (terminal.cpu_s - before[0]) / took_s,
        (terminal.helpers_cpu_s - before[1]) / took_s,
        (terminal.num_bytes - before[2]) / took_s,
        terminal.rss_bytes,
        terminal.painting_rss_bytes,
    )


def memory(folder: Path, home: Path, *, points: int, chunks: int) -> int:
    """Return resident bytes once so many points came and so many rows were scanned."""
    run = RunWriter(folder / "large", world_size=1)
    run.begin()
    make_store(run.run, chunks)
    with attach(run.path, home) as terminal:
        terminal.shown_s("seen at")
        for step in range(1, points // 4 + 1):  # loss, rate, norm and speed
            finish_step(run, step, 10**8)
            if step % 5_000 == 0:
                terminal.so_s(lambda at=step: _step(terminal) >= at, "the step")
        for key, text in _PANES[:2]:
            _press(terminal, key, text)
        terminal.send("5")
        terminal.shown_s("server")
        for text in ("members", "none is missing"):
            terminal.pass_time(0.5)
            terminal.send("\r")
            terminal.shown_s(text)
        terminal.send("G")
        terminal.shown_s(f"{chunks - 1:,}")
        return terminal.rss_bytes
