"""The trainer's command line: which command, and how it tells what went wrong."""

import re

import pytest

from agent.rundir.errors import LockedError
from trainer import cli
from trainer.cli import COMMANDS, main
from trainer.distributed.verdict import RankFailedError


@pytest.fixture
def failing(monkeypatch):
    """Make `pin` raise an error, as rank 0 or another."""

    def set_up(error, rank="0"):
        def fail(arguments):
            raise error

        monkeypatch.setenv("RANK", rank)
        monkeypatch.setattr(cli, "_load", lambda name: fail)

    return set_up


def test_help_names_every_command(capsys):
    assert main(["--help"]) == 0

    text = capsys.readouterr().out
    assert all(re.search(rf"^  {name} ", text, re.MULTILINE) for name in COMMANDS)


def test_no_command_is_wrong_usage(capsys):
    assert main([]) == 64


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["dpp"], "unknown command `dpp`: did you mean `ddp`"),
        (["launch", "dpp"], "unknown command `launch dpp`: did you mean `launch ddp`"),
        (["launch"], "unknown command `launch`"),
        (["xyz"], "unknown command `xyz`"),
    ],
)
def test_an_unknown_command_is_refused_with_the_nearest(capsys, arguments, told):
    assert main(arguments) == 64

    assert told in capsys.readouterr().err


def test_an_error_is_one_line_and_a_hint_with_its_own_exit_code(failing, capsys):
    failing(LockedError("`runs/a` is in use", hint="opsdash attach runs/a"))

    assert main(["pin"]) == 73

    assert capsys.readouterr().err == (
        "error: `runs/a` is in use\nhint: opsdash attach runs/a\n"
    )


def test_ranks_other_than_0_leave_the_telling_to_it(failing, capsys):
    failing(LockedError("`runs/a` is in use"), rank="1")

    assert main(["pin"]) == 73

    assert capsys.readouterr().err == ""


def test_a_rank_whose_own_fault_it_was_shows_where(failing, capsys):
    error = RankFailedError("rank 1 failed: ZeroDivisionError")
    error.__cause__ = ZeroDivisionError("in the user's model")
    failing(error, rank="1")

    assert main(["pin"]) == 70

    assert "ZeroDivisionError: in the user's model" in capsys.readouterr().err


def test_a_fault_of_our_own_shows_a_traceback(failing, capsys):
    failing(KeyError("never thought of"))

    assert main(["pin"]) == 70

    assert "KeyError: 'never thought of'" in capsys.readouterr().err


def test_every_command_of_this_package_can_be_found():
    for name in ("launch ddp", "ddp", "resume", "pin", "unpin", "prove-resume"):
        assert callable(cli._load(name))


@pytest.mark.parametrize("command", ["ddp", "launch ddp", "resume", "pin"])
def test_a_missing_run_directory_is_wrong_usage(capsys, command):
    assert main(command.split()) == 64

    text = capsys.readouterr().err
    assert "RUN_DIR" in text
    assert f"hint: python -m trainer {command} --help" in text
