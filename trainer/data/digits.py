"""Handwritten digits that are on every machine with scikit-learn.

1,797 images of 8 x 8 pixels (UCI, Alpaydin and Kaynak 1998). The table is read
from where scikit-learn keeps it: importing scikit-learn would cost every
client 0.8 s of processor time for one file.
"""

import importlib.util
from pathlib import Path

import numpy as np
import torch

from agent.rundir.errors import RunDirError
from trainer.data.examples import (
    Examples,
    FederatedExamples,
    dirichlet_parts,
    held_out_parts,
)

CALIBRATION_FRAC = 0.1
HELD_OUT_FRAC = 0.2
NUM_CLASSES = 10

_SIDE = 8
_BRIGHTEST = 16.0
_TABLE = "datasets/data/digits.csv.gz"


def load_digits() -> Examples:
    """Return all images, (1797, 1, 8, 8) float32 in [0, 1], and their digits.

    Raises:
        RunDirError: scikit-learn is not installed.
    """
    found = importlib.util.find_spec("sklearn")
    if found is None or found.origin is None:
        raise RunDirError(
            "the handwritten digits come with scikit-learn, which is not installed",
            hint="pip install 'opsdash[train]'",
        )
    table = np.loadtxt(Path(found.origin).parent / _TABLE, delimiter=",")
    pixels = torch.from_numpy((table[:, :-1] / _BRIGHTEST).astype(np.float32))
    labels = torch.from_numpy(table[:, -1].astype(np.int64))
    return Examples(pixels.reshape(-1, 1, _SIDE, _SIDE), labels)


def federated_digits(
    clients: list[str], *, alpha: float, seed: int
) -> FederatedExamples:
    """Share the digits among clients by Dirichlet(alpha).

    Raises:
        ValueError: so many clients cannot each have their own mixture.
    """
    digits = load_digits()
    (calibration, held_out), rest = held_out_parts(
        len(digits), [CALIBRATION_FRAC, HELD_OUT_FRAC], seed
    )
    training = digits.take(rest)
    parts = dirichlet_parts(training.labels, len(clients), alpha, seed)
    return FederatedExamples(
        clients={
            client: training.take(part)
            for client, part in zip(clients, parts, strict=True)
        },
        calibration=digits.take(calibration),
        held_out=digits.take(held_out),
        num_classes=NUM_CLASSES,
    )
