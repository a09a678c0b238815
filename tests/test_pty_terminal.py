import signal
import sys
from pathlib import Path

import pytest

from tests.pty_terminal import PtyTerminal

ROOT = Path(__file__).parent.parent

PROGRAM = """
from textual.app import App
from textual.widgets import Input, Label

class Program(App):
    BINDINGS = [("q", "quit"), ("c", "copy")]

    def compose(self):
        yield Label("it runs")
        yield Label(id="size")

    def on_resize(self, event):
        self.query_one("#size").update(f"{event.size.width} x {event.size.height}")

    def action_copy(self):
        self.copy_to_clipboard("a command")

Program().run()
"""


def program(text, **options):
    return PtyTerminal([sys.executable, "-c", text], cwd=ROOT, **options)


def test_a_program_is_driven_and_leaves_the_terminal_as_it_was():
    with program(PROGRAM, columns=60, rows=10) as terminal:
        terminal.wait_for("it runs")
        terminal.wait_for("60 x 10")
        assert not terminal.is_restored
        terminal.resize(44, 12)
        terminal.wait_for("44 x 12")
        terminal.send("c")
        terminal.wait_until(lambda: terminal.clipboard == "a command", "clipboard")
        terminal.send("q")

        assert terminal.exit_code() == 0
        assert terminal.is_restored
        assert terminal.num_bytes == len(terminal.output) > 0


def test_the_screen_shows_colours_and_text_of_any_script():
    text = "print('\\x1b[31mrot \\x1b[2mfahl\\x1b[22m 模型 \\u2801')"

    with program(text) as terminal:
        assert terminal.exit_code() == 0

        first = terminal.terminal.buffer[0]
        assert (first[0].data, first[0].fg, first[0].blink) == ("r", "red", False)
        assert first[4].blink
        assert "模型" in terminal.text.replace(" ", "")
        assert "\u2801" in terminal.text


def test_a_killed_program_says_by_which_signal():
    with program("import time; print('up'); time.sleep(60)") as terminal:
        terminal.wait_for("up")
        terminal.signal(signal.SIGTERM)

        assert terminal.exit_code() == -signal.SIGTERM


def test_a_wait_in_vain_fails_with_the_screen():
    with (
        program("print('only this')") as terminal,
        pytest.raises(AssertionError, match="only this"),
    ):
        terminal.wait_for("something else")


def test_waiting_for_a_program_that_hangs_fails():
    with program("import time; print('up'); time.sleep(60)") as terminal:
        terminal.wait_for("up")
        with pytest.raises(AssertionError, match="still running"):
            terminal.exit_code(timeout_s=0.1)


def test_leaving_ends_the_program():
    with program("import time; print('up'); time.sleep(60)") as terminal:
        terminal.wait_for("up")
        process = Path(f"/proc/{terminal.pid}")
        assert process.exists()

    assert not process.exists()
