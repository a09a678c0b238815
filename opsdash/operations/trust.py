"""Whether a program that a run directory names may be started from here.

Whoever can write the file that names it chooses what runs under the operator's
account. So the file and the directories that hold it must be the operator's
own, and nobody else may write them.
"""

import grp
import os
import pwd
import stat
from pathlib import Path

from agent.rundir.layout import RunDir


def why_untrusted(run: RunDir, attempt: int) -> str | None:
    """Return why an attempt's command must not be started; None: it may."""
    for path in (run.path, run.attempts, run.attempt_file(attempt)):
        problem = _why_open(path)
        if problem:
            return problem
    return None


def _why_open(path: Path) -> str | None:
    """Return why somebody else could have changed what lies at a path."""
    try:
        # A run directory may be reached by a link; what is in it may not be one.
        found = path.stat() if (path / "run.json").exists() else os.lstat(path)
    except OSError as error:
        return f"`{path}` cannot be looked at: {error.strerror}"
    if stat.S_ISLNK(found.st_mode):
        return f"`{path}` is a symbolic link"
    if found.st_uid != os.geteuid():
        return f"`{path}` belongs to {_user_name(found.st_uid)}"
    if found.st_mode & stat.S_IWOTH:
        return f"`{path}` can be written by everybody"
    if found.st_mode & stat.S_IWGRP and not _is_private_group(found.st_gid):
        return f"`{path}` can be written by group {_group_name(found.st_gid)}"
    return None


def _is_private_group(gid: int) -> bool:
    """Whether a group is the operator's own, as a umask of 002 takes for granted."""
    try:
        group, user = grp.getgrgid(gid), pwd.getpwuid(os.geteuid())
    except KeyError:
        return False
    is_alone = not set(group.gr_mem) - {user.pw_name}
    return gid == user.pw_gid and group.gr_name == user.pw_name and is_alone


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"


def _group_name(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)
