"""A client's own examples from a folder: `<client>.npz` or `<client>.csv`.

`.npz` holds `x` and `y`; a `.csv` has one example per line, numbers only, the
class last. `test.npz` or `test.csv` beside them is held out. Nothing in them
is executed: arrays of objects are refused.
"""

import zipfile
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from agent.rundir.errors import RunDirError
from trainer.data.examples import Examples

TEST_NAME = "test"

_SUFFIXES = (".npz", ".csv")
_UNREADABLE = (
    OSError,
    ValueError,
    KeyError,
    EOFError,
    NotImplementedError,
    zipfile.BadZipFile,
    zlib.error,
)
"""What NumPy raises about a file that is torn, damaged or something else."""
_NUMS_OF_DIMENSIONS = (2, 3, 4)
"""Rows; images; images with channels."""
_REAL_NUMBERS = frozenset("biuf")
"""Kinds of NumPy's dtypes."""
_MAX_CLASS = 2**31 - 1


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
    except _UNREADABLE as error:
        raise RunDirError(f"`{path}` holds no examples: {error}") from error


def as_examples(inputs: np.ndarray, labels: np.ndarray) -> Examples:
    """Return arrays as examples.

    Raises:
        ValueError: lengths or shapes do not go together, or the arrays hold
            something else than real numbers and whole classes.
    """
    has_shape = inputs.ndim in _NUMS_OF_DIMENSIONS and inputs.size
    if not has_shape or labels.shape != inputs.shape[:1]:
        raise ValueError(f"{inputs.shape} inputs do not go with {labels.shape} labels")
    if {inputs.dtype.kind, labels.dtype.kind} - _REAL_NUMBERS:
        raise ValueError("inputs and classes must be real numbers")
    values = torch.from_numpy(np.ascontiguousarray(inputs, dtype=np.float32))
    if np.issubdtype(inputs.dtype, np.integer) and values.max() > 1:
        values = values / 255
    if values.ndim == 3:
        values = values.unsqueeze(1)
    return Examples(_finite(values), _whole_classes(labels))


def _finite(values: Tensor) -> Tensor:
    if not bool(torch.isfinite(values).all()):
        raise ValueError("inputs must be finite")
    return values


def _whole_classes(labels: np.ndarray) -> Tensor:
    """Return classes; one that is cut to a whole number would be another class."""
    is_class = (labels >= 0) & (labels <= _MAX_CLASS)
    if not is_class.all() or (labels != np.floor(labels)).any():
        raise ValueError("classes must be whole numbers that count from 0")
    return torch.from_numpy(labels.astype(np.int64))


def _read_npz(path: Path) -> tuple[np.ndarray, np.ndarray]:
    # NumPy would leave a file open that turns out to be none of its own.
    with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        return arrays["x"], arrays["y"]


def _read_csv(path: Path) -> tuple[np.ndarray, np.ndarray]:
    with path.open(encoding="utf-8-sig") as file:
        if _are_numbers(file.readline()):
            file.seek(0)
        table = np.loadtxt(file, delimiter=",", ndmin=2)
    return table[:, :-1], table[:, -1]


def _are_numbers(line: str) -> bool:
    """Whether a first line is an example; letters alone say nothing: `1e-05`."""
    try:
        return bool([float(field) for field in line.split(",")])
    except ValueError:
        return False
