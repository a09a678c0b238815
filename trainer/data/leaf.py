"""LEAF's JSON, in which FEMNIST and other federated sets are published.

A file holds `users` and `user_data[user] = {"x": [[…]], "y": […]}`; a directory
holds many, in `train/` and `test/`. Users are dealt to clients in the order of
their names, so that every client finds its own without being told.

Source: Caldas et al. 2018, https://github.com/TalwalkarLab/leaf
"""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np

from agent.rundir.errors import RunDirError
from trainer.data.examples import Examples
from trainer.data.folder import as_examples


class _UserData(msgspec.Struct):
    x: list[list[float]]
    y: list[Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]]


class _LeafFile(msgspec.Struct):
    users: list[str]
    user_data: dict[str, _UserData]


def is_leaf(path: Path) -> bool:
    """Whether a path is a LEAF file, or a directory with `train/*.json` in it."""
    return path.suffix == ".json" or any((path / "train").glob("*.json"))


def load_leaf_client(
    path: Path, index: int, num_clients: int
) -> tuple[Examples, Examples | None]:
    """Return what one client's users train on, and what is held out of them.

    Args:
        path: A file, or a directory with `train/`.
        index: Of the client, from 0.
        num_clients: Among how many the users are dealt.

    Returns:
        The second is None where nothing is held out.

    Raises:
        RunDirError: no LEAF data, or fewer users than clients.
    """
    users = _read_users(_files(path, "train"))
    mine = _dealt(users, index, num_clients, path)
    training = _joined([users[user] for user in mine], path)
    del users  # as Python's numbers they take many times what the tensors do
    return training, _held_out(path, mine)


def _held_out(path: Path, mine: list[str]) -> Examples | None:
    if not _has_test(path):
        return None
    held_out = _read_users(_files(path, "test"))
    found = [held_out[user] for user in mine if user in held_out]
    return _joined(found, path) if found else None


def load_leaf_everything(path: Path, num_clients: int) -> Examples:
    """Return the training examples of all users.

    Raises:
        RunDirError: no LEAF data, or fewer users than clients.
    """
    users = _read_users(_files(path, "train"))
    _dealt(users, num_clients - 1, num_clients, path)
    return _joined(list(users.values()), path)


def load_leaf_test(path: Path) -> Examples | None:
    """Return the examples of all users that are held out; None: there are none.

    Raises:
        RunDirError: `test/` holds something else than LEAF data.
    """
    if not _has_test(path):
        return None
    return _joined(list(_read_users(_files(path, "test")).values()), path)


def _has_test(path: Path) -> bool:
    return not path.is_file() and (path / "test").is_dir()


def _dealt(users: Iterable[str], index: int, num_clients: int, path: Path) -> list[str]:
    """Return one client's users.

    Raises:
        RunDirError: there is none for it.
    """
    names = sorted(users)
    mine = names[index::num_clients]
    if not mine:
        raise RunDirError(
            f"`{path}` has {len(names)} users, too few for {num_clients} clients",
            hint=f"--clients {len(names)}",
        )
    return mine


def _files(path: Path, part: str) -> list[Path]:
    files = [path] if path.is_file() else sorted((path / part).glob("*.json"))
    if not files:
        raise RunDirError(f"`{path}` has no LEAF data: no `{part}/*.json`")
    return files


def _read_users(files: list[Path]) -> dict[str, _UserData]:
    users: dict[str, _UserData] = {}
    for file in files:
        try:
            found = msgspec.json.decode(file.read_bytes(), type=_LeafFile)
            theirs = {user: found.user_data[user] for user in found.users}
        except (OSError, msgspec.DecodeError, KeyError) as error:
            raise RunDirError(f"`{file}` is not LEAF's JSON: {error}") from error
        for user, data in theirs.items():
            _check_user(file, user, data)
            if user in users:
                raise RunDirError(f"`{file}` holds user `{user}`, as a file before it")
        users |= theirs
    return users


def _check_user(file: Path, user: str, data: _UserData) -> None:
    """Refuse labels that would go to the examples of the next user."""
    if len(data.x) != len(data.y):
        raise RunDirError(
            f"`{file}` has {len(data.x)} examples and {len(data.y)} labels of `{user}`"
        )


def _joined(users: list[_UserData], path: Path) -> Examples:
    """Return flat pixels as square images; other rows stay rows."""
    try:
        rows = np.array([row for user in users for row in user.x], dtype=np.float32)
        labels = np.array([label for user in users for label in user.y])
        side = math.isqrt(rows.shape[1])
        if side > 1 and side * side == rows.shape[1]:
            rows = rows.reshape(-1, 1, side, side)
        return as_examples(rows, labels)
    except (ValueError, IndexError) as error:
        raise RunDirError(f"`{path}` holds no examples: {error}") from error
