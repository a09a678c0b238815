"""The dashboard under a real pseudo-terminal: keys, signals, small screens."""

import signal
import sys
from pathlib import Path

import pytest
import torch

from agent.rundir import events as ev
from tests.pty_terminal import PtyTerminal
from tests.runs import SECOND, RunWriter, dead_process

ROOT = Path(__file__).parent.parent.parent
TRUE_COLOR = {"COLORTERM": "truecolor"}


@pytest.fixture
def finished(tmp_path: Path) -> RunWriter:
    run = RunWriter(tmp_path / "run-1")
    run.time_ns -= 60 * SECOND
    run.begin()
    run.beat()
    run.steps(1, 30, late={1: 20_000_000})
    run.emit(
        0,
        ev.OptimizerNorms,
        optimizer="AdamW",
        step=30,
        grad=0.5,
        param=10.0,
        update_ratio=0.01,
        state={"exp_avg": 0.25},
    )
    run.checkpoint(20)
    run.end()
    return run


def attach(path: Path, *flags: str, size=(120, 36), env=None) -> PtyTerminal:
    return PtyTerminal(
        [sys.executable, "-m", "opsdash", "attach", path, *flags],
        columns=size[0],
        rows=size[1],
        env=TRUE_COLOR if env is None else env,
        cwd=ROOT,
    )


PANES = {
    "1": "tokens/s",
    "2": "nobody waits at a barrier",
    "3": "step-00000020",
    "4": "exp_avg 0.25",
    "5": "its state is in checkpoints",
    "6": "it has steps and no rounds",
    "7": "run_ended",
}


@pytest.mark.parametrize("size", [(120, 36), (80, 24)])
def test_every_pane_shows_what_it_is_for(finished, size):
    with attach(finished.path, size=size) as terminal:
        terminal.wait_for("completed at step 30")

        for key, text in PANES.items():
            terminal.send(key)
            terminal.wait_for(text)

        terminal.send("q")
        assert terminal.exit_code() == 0
        assert terminal.is_restored


@pytest.mark.parametrize(
    "env",
    [
        {"TERM": "xterm", "COLORTERM": None},
        {"TERM": "xterm-256color", "COLORTERM": None},
        {"NO_COLOR": "1"},
        {"LANG": "C", "LC_ALL": "C", "PYTHONIOENCODING": "ascii"},
    ],
)
def test_it_is_complete_with_few_colours_or_none(finished, env):
    with attach(finished.path, size=(80, 24), env=env) as terminal:
        terminal.wait_for("finished completed at step 30")
        terminal.send("3")
        terminal.wait_for("step-00000020")
        terminal.send("q")

        assert terminal.exit_code() == 0


def test_ascii_sends_nothing_else(finished):
    with attach(finished.path, "--ascii") as terminal:
        terminal.wait_for("completed at step 30")
        for key in "234567?":
            terminal.send(key)
            terminal.settle()
        terminal.send("q")  # the help, which is on top
        terminal.wait_until(lambda: "everywhere" not in terminal.text, "it gone")
        terminal.send("q")
        terminal.exit_code()

        others = [c for c in terminal.output.decode() if not c.isascii()]
        assert others == []


def test_v_reads_the_checkpoint_again_and_the_outcome_stays(finished):
    state = finished.run.checkpoints / "step-00000020" / "state.pt"
    with attach(finished.path) as terminal:
        terminal.wait_for("completed at step 30")
        terminal.send("3")
        terminal.wait_for("step-00000020")

        state.write_bytes(state.read_bytes()[:-1] + b"!")
        terminal.send("v")

        terminal.wait_for("failed verify step-00000020")
        terminal.send("7")
        terminal.wait_for("failed verify step-00000020")
        terminal.send("3")
        terminal.wait_for("damaged")
        terminal.wait_for("no: ")

    with attach(finished.path) as later:
        later.wait_for("no verified checkpoint")


def test_r_on_a_dead_run_shows_the_plan_then_starts_it_detached(tmp_path):
    run = RunWriter(tmp_path / "run-1", process=dead_process())
    marker = tmp_path / "started-with"
    script = f"import sys; open({str(marker)!r}, 'w').write(sys.argv[1])"
    run.begin(resume_command=(sys.executable, "-c", script, "{checkpoint}"))
    run.beat()
    run.steps(1, 30)
    _publish_sound(run, 20)
    with attach(run.path) as terminal:
        terminal.wait_for("dead")
        terminal.send("r")
        terminal.wait_for("10 steps after step-00000020")
        terminal.wait_for("enter confirms")
        assert not marker.exists()

        terminal.send("\r")
        terminal.wait_until(marker.exists, "the command it showed")

    assert marker.read_text() == "step-00000020"
    assert list(run.run.logs.iterdir())


def test_r_on_a_live_run_that_takes_no_requests_says_why_not(tmp_path):
    run = RunWriter(tmp_path / "run-1")
    run.begin()
    run.beat()
    run.steps(1, 30)
    _publish_sound(run, 20)
    with attach(run.path) as terminal:
        terminal.wait_for("step 30")
        terminal.send("r")

        terminal.wait_for("its trainer takes none")
        terminal.send("\r")
        terminal.settle()
        assert "escape closes" in terminal.text
        terminal.send("\x1b")
        terminal.wait_until(
            lambda: "escape closes" not in terminal.text, "the plan gone"
        )
        terminal.send("q")
        assert terminal.exit_code() == 0


def test_c_copies_the_digest_through_the_terminal(finished):
    with attach(finished.path) as terminal:
        terminal.wait_for("completed at step 30")
        terminal.send("3")
        terminal.wait_for("blake3:")
        terminal.send("c")

        terminal.wait_until(lambda: terminal.clipboard is not None, "the clipboard")
        assert terminal.clipboard.startswith("blake3:")


def test_a_filter_takes_every_letter_and_counts_as_it_is_typed(finished):
    with attach(finished.path) as terminal:
        terminal.wait_for("completed at step 30")
        terminal.send("7")
        terminal.wait_for("run_ended")
        terminal.send("/quit|run_(")
        terminal.wait_for("literally 0 of")
        terminal.send("ended)")
        terminal.wait_for("2 of")
        terminal.send("\r")
        terminal.send("q")

        assert terminal.exit_code() == 0


def test_help_lists_the_keys_that_work(finished):
    with attach(finished.path) as terminal:
        terminal.wait_for("completed at step 30")
        terminal.send("3")
        terminal.wait_for("step-00000020")
        terminal.send("?")

        terminal.wait_for("in checkpoints")
        terminal.wait_for("Verify all")


def test_a_live_run_moves_on_the_screen_and_p_stops_the_display_only(tmp_path):
    run = RunWriter(tmp_path / "run-1")
    run.begin()
    run.beat()
    run.steps(1, 10)
    with attach(run.path) as terminal:
        terminal.wait_for("step 10")
        run.steps(11, 12)
        terminal.wait_for("step 12")

        terminal.send("p")
        terminal.wait_for("display held")
        run.steps(13, 14)
        terminal.settle(1.5)
        assert "step 14" not in terminal.text
        terminal.send("p")
        terminal.wait_for("step 14")


def test_a_torn_and_an_unknown_line_are_counted_and_shown(finished):
    finished.append("rank-00000", b'{"kind":"teleported","time_ns":1}\n')
    finished.append("rank-00000", b'{"kind":"st\n\x1b[31mred\n')
    with attach(finished.path) as terminal:
        terminal.wait_for("completed at step 30")
        terminal.wait_for("newer kind")
        terminal.send("7/^unreadable")
        terminal.wait_for("2 of")
        terminal.wait_for("\\x1b[31mred")

        assert b"\x1b[31mred" not in terminal.output


@pytest.mark.parametrize(
    ("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_a_signal_gives_the_terminal_back(finished, signum, code):
    with attach(finished.path) as terminal:
        terminal.wait_for("completed at step 30")
        terminal.signal(signum)

        assert terminal.exit_code() == code
        assert terminal.is_restored


def test_a_smaller_window_is_drawn_anew(finished):
    with attach(finished.path) as terminal:
        terminal.wait_for("completed at step 30")
        terminal.resize(60, 18)
        terminal.send("3")
        terminal.wait_for("step-00000020")
        terminal.send("q")

        assert terminal.exit_code() == 0


def test_readonly_takes_the_acting_keys_away(finished):
    with attach(finished.path, "--readonly") as terminal:
        terminal.wait_for("read only")
        terminal.send("r")
        terminal.settle()

        assert "plan to resume" not in terminal.text
        assert "Resume" not in terminal.text
    assert not finished.run.operations.exists()


def test_a_directory_that_is_no_run_is_said_in_words(tmp_path):
    with attach(tmp_path / "nothing") as terminal:
        assert terminal.exit_code() == 66
        assert "is not a directory" in terminal.text


def _publish_sound(run: RunWriter, step: int) -> None:
    """A checkpoint of real bytes, published by hand."""
    torch.save({"w": torch.ones(4)}, run.path / "sound.pt")
    data = (run.path / "sound.pt").read_bytes()
    run.checkpoint(step, content=data)


def test_it_ends_with_its_terminal(finished):
    with attach(finished.path) as terminal:
        terminal.wait_for("completed at step 30")

        terminal.close()

        assert terminal.exit_code() in (129, -signal.SIGHUP)
