"""What `opsdash verify` says on a terminal while it reads."""

import io
from pathlib import Path

import pytest

from agent.rundir.verify.verdict import Level
from opsdash.commands import verify
from opsdash.operations.targets import Target
from tests.verdicts import verdict

SIZE = 1 << 20


class Terminal(io.StringIO):
    """Takes what is written, as a terminal does."""

    def isatty(self):
        return True


def read_in_two(target, level, *, progress):
    for done_bytes in (SIZE // 2, SIZE):
        progress(done_bytes, SIZE)
    return verdict(path=str(target.path), level=level, num_bytes=SIZE)


@pytest.mark.parametrize(
    ("level", "last"),
    [(Level.CONTENT, "100 % of run/a"), (Level.DEEP, "looking at the values of run/a")],
)
def test_what_comes_after_the_last_byte_is_said(monkeypatch, level, last):
    terminal, target = Terminal(), Target(Path("run/a"), "run/a")
    monkeypatch.setattr(verify.sys, "stderr", terminal)
    monkeypatch.setattr(verify, "_TELL_S", 0.0)
    monkeypatch.setattr(verify, "verify_target", read_in_two)

    verify.verify_all([target], level, is_json=True)

    told = terminal.getvalue().split("\r\x1b[K")
    assert told == ["", "50 % of run/a", last, ""]
