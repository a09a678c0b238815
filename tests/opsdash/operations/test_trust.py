"""Whose word decides what is started."""

import grp
import os
import pwd

import pytest

from opsdash.operations.trust import _is_private_group, why_untrusted
from tests.runs import RunWriter


@pytest.fixture
def run(tmp_path):
    writer = RunWriter(tmp_path / "run")
    writer.begin()
    for path in (writer.path, writer.run.attempts):
        path.chmod(0o755)
    writer.run.attempt_file(1).chmod(0o644)
    return writer.run


def test_what_only_the_operator_can_write_is_trusted(run):
    assert why_untrusted(run, 1) is None


@pytest.mark.parametrize("place", ["run", "attempts", "file"])
def test_what_everybody_can_write_is_not(run, place):
    path = {"run": run.path, "attempts": run.attempts, "file": run.attempt_file(1)}[
        place
    ]
    path.chmod(path.stat().st_mode | 0o002)

    assert why_untrusted(run, 1) == f"`{path}` can be written by everybody"


def test_what_a_shared_group_can_write_is_not(run):
    other = next(g for g in grp.getgrall() if g.gr_gid != os.getegid())
    path = run.attempt_file(1)
    if os.geteuid() != 0:
        pytest.skip("only root can give a file to any group")
    os.chown(path, -1, other.gr_gid)
    path.chmod(0o664)

    assert why_untrusted(run, 1) == f"`{path}` can be written by group {other.gr_name}"


def test_a_group_of_the_operator_alone_is_private():
    user = pwd.getpwuid(os.geteuid())
    group = grp.getgrgid(user.pw_gid)
    is_alone = group.gr_name == user.pw_name and not set(group.gr_mem) - {user.pw_name}

    assert _is_private_group(user.pw_gid) == is_alone
    assert not _is_private_group(2**31 - 7)


def test_what_belongs_to_somebody_else_is_not(run):
    if os.geteuid() != 0:
        pytest.skip("only root can give files away")
    os.chown(run.attempt_file(1), 12_345, -1)

    assert why_untrusted(run, 1) == f"`{run.attempt_file(1)}` belongs to user 12345"


def test_a_link_in_place_of_the_file_is_not(run, tmp_path):
    path = run.attempt_file(1)
    path.rename(tmp_path / "elsewhere.json")
    path.symlink_to(tmp_path / "elsewhere.json")

    assert why_untrusted(run, 1) == f"`{path}` is a symbolic link"


def test_a_run_directory_may_be_reached_by_a_link(run, tmp_path):
    link = tmp_path / "latest"
    link.symlink_to(run.path)

    assert why_untrusted(type(run)(link), 1) is None


def test_a_file_that_is_not_there_is_not(run):
    assert "cannot be looked at" in why_untrusted(run, 9)
