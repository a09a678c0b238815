"""Labelled examples as two tensors, and how they are shared among clients.

Every split is a pure function of its arguments and a seed: the server, the
clients and a replay on another machine see the same examples.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

_MAX_DRAWS = 1000


@dataclass(frozen=True)
class Examples:
    """Inputs and what they are."""

    inputs: Tensor
    """(num, channels, height, width) float32, or (num, features) float32."""
    labels: Tensor
    """(num,) int64 classes, or (num, 1) float32 targets."""

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: Sequence[int] | Tensor) -> "Examples":
        """Return the examples at these positions, in this order."""
        places = torch.as_tensor(index, dtype=torch.int64)
        return Examples(self.inputs[places], self.labels[places])


@dataclass(frozen=True)
class FederatedExamples:
    """What a federation trains on and is measured with."""

    clients: dict[str, Examples]
    calibration: Examples
    """Held by the server: normalisation statistics are taken from it."""
    held_out: Examples
    """What no one trains on: accuracy is measured here."""
    num_classes: int
    """0: targets are numbers, not classes."""


def dirichlet_parts(
    labels: Tensor, num_parts: int, alpha: float, seed: int, *, least: int = 2
) -> list[Tensor]:
    """Share examples so that each part has its own mixture of classes.

    Args:
        labels: (num,) int64.
        num_parts: Number of clients.
        alpha: Of the Dirichlet distribution: near 0 each class goes to one
            client, at 100 the mixtures are almost equal.
        seed: Of the draw.
        least: Examples that every client gets; draws with fewer are repeated.

    Returns:
        One (num_i,) int64 tensor of ascending positions per client; together
        they hold every position once.

    Raises:
        ValueError: there are too few examples for so many clients.

    Source: Hsu, Qi, Brown 2019, section 3.
    """
    if num_parts < 1 or num_parts * least > len(labels) or alpha <= 0:
        raise ValueError(
            f"{len(labels)} examples cannot be shared among {num_parts} clients "
            f"with at least {least} each and alpha {alpha:g}"
        )
    generator = np.random.default_rng(seed)
    for _ in range(_MAX_DRAWS):
        parts = _draw(labels.numpy(), num_parts, alpha, generator)
        if min(len(part) for part in parts) >= least:
            return [torch.from_numpy(np.sort(part)) for part in parts]
    raise ValueError(f"no draw with alpha {alpha:g} gave each client {least} examples")


def held_out_parts(
    num: int, fracs: Sequence[float], seed: int
) -> tuple[list[Tensor], Tensor]:
    """Set shares of the examples apart.

    Args:
        num: Number of examples.
        fracs: One share per part that is set apart, in (0, 1), together below 1.
        seed: Of the shuffle.

    Returns:
        The positions of each part, and what is left, ascending.
    """
    order = np.random.default_rng(seed).permutation(num)
    bounds = np.cumsum([round(frac * num) for frac in fracs])
    pieces = [torch.from_numpy(np.sort(piece)) for piece in np.split(order, bounds)]
    return pieces[:-1], pieces[-1]


def _draw(
    labels: np.ndarray[tuple[int], np.dtype[np.int64]],
    num_parts: int,
    alpha: float,
    generator: np.random.Generator,
) -> list[np.ndarray[tuple[int], np.dtype[np.int64]]]:
    pieces: list[list[np.ndarray[tuple[int], np.dtype[np.int64]]]] = [
        [] for _ in range(num_parts)
    ]
    for label in np.unique(labels):
        places = generator.permutation(np.flatnonzero(labels == label))
        shares = generator.dirichlet([alpha] * num_parts)
        bounds = (np.cumsum(shares)[:-1] * len(places)).astype(np.int64)
        for mine, piece in zip(pieces, np.split(places, bounds), strict=True):
            mine.append(piece)
    return [np.concatenate(mine) for mine in pieces]
