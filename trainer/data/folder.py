"""A client's own examples from a folder: `<client>.npz` or `<client>.csv`.

`.npz` holds `x` and `y`; a `.csv` has one example per line, numbers only, the
class last. `test.npz` or `test.csv` beside them is held out. Nothing in them
is executed: arrays of objects are refused.
"""

import re
from pathlib import Path

import numpy as np
import torch

from agent.rundir.errors import RunDirError
from trainer.data.examples import Examples

TEST_NAME = "test"

_SUFFIXES = (".npz", ".csv")
_HEADER = re.compile(r"[A-Za-z_]")


def load_folder(folder: Path, name: str) -> Examples | None:
    """Return the examples of one client, or of `test`; None: there is no file.

    Images, (num, height, width) or (num, channels, height, width), keep their
    shape; rows of numbers stay rows. Whole-number inputs above 1 are pixels
    and are scaled to [0, 1] by 255.

    Raises:
        RunDirError: the file is not what its name says.
    """
    for suffix in _SUFFIXES:
        path = folder / f"{name}{suffix}"
        if path.is_file():
            return _read(path)
    return None


def _read(path: Path) -> Examples:
    try:
        inputs, labels = _read_npz(path) if path.suffix == ".npz" else _read_csv(path)
        return as_examples(inputs, labels)
    except (OSError, ValueError, KeyError) as error:
        raise RunDirError(f"`{path}` holds no examples: {error}") from error


def as_examples(inputs: np.ndarray, labels: np.ndarray) -> Examples:
    """Return arrays as examples.

    Raises:
        ValueError: lengths differ, or the arrays hold no numbers.
    """
    if len(inputs) != len(labels) or labels.ndim != 1 or not len(labels):
        raise ValueError(f"{inputs.shape} inputs do not go with {labels.shape} labels")
    values = torch.from_numpy(np.ascontiguousarray(inputs, dtype=np.float32))
    if np.issubdtype(inputs.dtype, np.integer) and values.max() > 1:
        values = values / 255
    if values.ndim == 3:
        values = values.unsqueeze(1)
    classes = torch.from_numpy(labels.astype(np.int64))
    if not bool(torch.isfinite(values).all()) or bool((classes < 0).any()):
        raise ValueError("inputs must be finite, classes must count from 0")
    return Examples(values, classes)


def _read_npz(path: Path) -> tuple[np.ndarray, np.ndarray]:
    with np.load(path, allow_pickle=False) as arrays:
        return arrays["x"], arrays["y"]


def _read_csv(path: Path) -> tuple[np.ndarray, np.ndarray]:
    with path.open(encoding="utf-8") as file:
        has_header = bool(_HEADER.search(file.readline()))
    table = np.loadtxt(path, delimiter=",", ndmin=2, skiprows=int(has_header))
    return table[:, :-1], table[:, -1]
