"""Make the pictures: real runs, the real dashboard in a terminal, its screen as PNG.

Data-parallel runs and federations are trained on this machine; one of each goes
well, the others get a straggler, a hang, a kill, a damaged checkpoint, a client
that was cut off and came back, and a damaged store. Nothing on the pictures is
written by hand. With arguments only the scenes that they name are made.
"""

import contextlib
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from agent.rundir.checkpoints import list_checkpoints
from agent.rundir.events import ClientJoined, RoundCommitted
from screenshots import raster
from screenshots.runs import ROOT, Training, at_home, flip_a_byte
from tests.pty_terminal import PtyTerminal

OUT = ROOT / "screenshots"
SIZES = {"wide": (120, 36), "small": (80, 24)}
ENVIRONMENT = {
    "COLORTERM": "truecolor",
    "TERM": "xterm-256color",
    # Pictures show what is there at first, not the theme of whoever makes them.
    "XDG_CONFIG_HOME": str(OUT / "no-preferences"),
}
PATIENCE_S = 120
_TRIES, _TRY_S = 10, 12.0


def main() -> int:
    """Make every picture, or those of some scenes; name what was made."""
    wanted = sys.argv[1:] or list(SCENES)
    with tempfile.TemporaryDirectory(prefix="opsdash-") as folder:
        runs = Path(folder) / "runs"
        runs.mkdir()
        with at_home(runs):
            for name in wanted:
                SCENES[name]()
    return 0


def healthy() -> None:
    """Every pane of a run that goes well, then of the same run when it ended."""
    with Training("ddp", "ddp-1", "--steps", "300") as training:
        training.wait_for_step(120)
        for size in SIZES:
            with watching(training, size) as terminal:
                see(terminal, "training at step")
                take(terminal, f"overview-{size}")
                press(terminal, "2", "nobody waits")
                take(terminal, f"barriers-{size}")
                press(terminal, "4", "gradient norm")
                take(terminal, f"optimizer-{size}")
        training.wait()
    for size in SIZES:
        with watching(training, size) as terminal:
            see(terminal, "finished")
            press(terminal, "3", "resumable")
            press(terminal, "v", "sound:")
            take(terminal, f"checkpoints-{size}")
            press(terminal, "5", "its state is in checkpoints")
            take(terminal, f"chunks-ddp-{size}")
            press(terminal, "6", "it has steps and no rounds")
            take(terminal, f"rounds-ddp-{size}")
            press(terminal, "7", "run_ended")
            take(terminal, f"events-{size}")


def straggler() -> None:
    """A rank that the others wait for."""
    run = Training("ddp", "ddp-2", "--steps", "5000")
    with run as training, training.suffers("straggler"):
        training.wait_for_step(110)
        for size in SIZES:
            with watching(training, size) as terminal:
                see(terminal, "degraded rank 1 costs")
                take(terminal, f"straggler-{size}")
                press(terminal, "2", "cost now")
                take(terminal, f"straggler-barriers-{size}")


def hang() -> None:
    """A rank that never comes to the barrier, and where it stands."""
    with Training("ddp", "ddp-3", "--steps", "5000") as training:
        training.wait_for_step(60)
        with watching(training, "wide") as terminal, _hung(training, terminal):
            press(terminal, "2", "hang ")
            press(terminal, "K", "enter confirms")
            press(terminal, "\r", "none of rank 1: state T")
            take(terminal, "hang-wide")
            terminal.resize(*SIZES["small"])
            see(terminal, "process is stopped")
            take(terminal, "hang-small")


def damaged() -> None:
    """A run that was killed, its damaged checkpoint, and the plan to resume it."""
    with Training("ddp", "ddp-4", "--steps", "5000") as training:
        training.wait_for_step(130)
    newest = list_checkpoints(training.run)[0]
    flip_a_byte(newest.path / "state.pt")
    for size in SIZES:
        with watching(training, size) as terminal:
            see(terminal, "dead")
            take(terminal, f"dead-{size}")
            press(terminal, "3", newest.name)
            press(terminal, "v", "failed verify")
            # The verdict itself, and the list, which has it from the run's files.
            see(terminal, "damaged: state.pt, byte")
            see(terminal, "no: ")
            take(terminal, f"damaged-{size}")
            terminal.send("1")
            press(terminal, "r", "enter confirms")
            take(terminal, f"resume-plan-{size}")
            terminal.send("\x1b")
            # What is sent in one go with an escape is another key.
            see_no(terminal, "enter confirms")


def federated() -> None:
    """A federation, a client that was cut off and came back, and the stores."""
    run = Training("fl", "fl-1", "--rounds", "5000")
    with run as training, training.suffers("reconnect"):
        training.wait_for(lambda e: isinstance(e, ClientJoined) and e.is_return)
        training.wait_for(_is_after(30))
        for size in SIZES:
            with watching(training, size) as terminal:
                see(terminal, "training at round")
                take(terminal, f"federated-{size}")
                press(terminal, "6", "what happened")
                take(terminal, f"reconnect-{size}")
                press(terminal, "5", "client-3")
                press(terminal, "v", "ok verify")
                take(terminal, f"chunks-{size}")
    with training.suffers("corrupt"), watching(training, "wide") as terminal:
        press(terminal, "5", "client-3")
        press(terminal, "v", "damaged")
        take(terminal, "chunks-damaged-wide")
        terminal.resize(*SIZES["small"])
        take(terminal, "chunks-damaged-small")


SCENES: dict[str, Callable[[], None]] = {
    "healthy": healthy,
    "straggler": straggler,
    "hang": hang,
    "damaged": damaged,
    "federated": federated,
}


@contextlib.contextmanager
def watching(training: Training, size: str) -> Iterator[PtyTerminal]:
    """Watch a run in a terminal of a size until the block is left."""
    columns, rows = _size(size)
    terminal = PtyTerminal(
        [sys.executable, "-m", "opsdash", "attach", training.run.path],
        columns=columns,
        rows=rows,
        env={**ENVIRONMENT, "PYTHONPATH": str(ROOT)},
    )
    with terminal:
        yield terminal
        terminal.send("q")
        terminal.exit_code()


def press(terminal: PtyTerminal, key: str, text: str) -> None:
    """Press a key, and wait for what it brings."""
    terminal.send(key)
    see(terminal, text)


def see(terminal: PtyTerminal, text: str) -> None:
    """Wait until a text is on the screen."""
    terminal.wait_for(text, PATIENCE_S)


def see_no(terminal: PtyTerminal, text: str) -> None:
    """Wait until a text is off the screen."""
    terminal.wait_until(
        lambda: text not in terminal.text, f"end of `{text}`", PATIENCE_S
    )


def take(terminal: PtyTerminal, name: str) -> None:
    """Draw the screen when all was read, and a moment later: it never stands still."""
    terminal.wait_until(lambda: "reading" not in terminal.text, "all read", PATIENCE_S)
    end = time.monotonic() + 1.0
    terminal.wait_until(lambda: time.monotonic() > end, "the moment")
    path = raster.draw(raster.from_pyte(terminal.terminal), OUT / f"{name}.png")
    print(path.relative_to(ROOT), flush=True)


@contextlib.contextmanager
def _hung(training: Training, terminal: PtyTerminal) -> Iterator[None]:
    """Stop a rank before a barrier: inside a reduction its limit passes before that."""
    for _ in range(_TRIES):
        with training.suffers("hang"):
            if _is_missing(terminal):
                yield
                return
        see(terminal, "healthy")
    raise SystemExit("no rank could be stopped before a barrier")


def _is_missing(terminal: PtyTerminal) -> bool:
    try:
        terminal.wait_for("missing: rank 1", _TRY_S)
    except AssertionError:
        return False
    return True


def _size(name: str) -> Sequence[int]:
    return SIZES[name]


def _is_after(round_num: int) -> Callable[[object], bool]:
    return lambda e: isinstance(e, RoundCommitted) and (e.round_num or 0) >= round_num


if __name__ == "__main__":
    raise SystemExit(main())
