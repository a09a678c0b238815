"""A toy: straight lines with noise, ten features, one target.

Small enough that every number of a federation on it can be followed by hand.
"""

import torch

from trainer.data.examples import Examples, FederatedExamples

NUM_FEATURES = 10

_PER_CLIENT = 50
_HELD_OUT = 100
_NOISE = 0.1


def lines(num: int, seed: int) -> Examples:
    """Return (num, 10) inputs and (num, 1) targets of one fixed linear function."""
    weights = torch.linspace(-1, 1, NUM_FEATURES).unsqueeze(1)
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(num, NUM_FEATURES, generator=generator)
    noise = torch.randn(num, 1, generator=generator)
    return Examples(inputs, inputs @ weights + 0.5 + _NOISE * noise)


def federated_lines(clients: list[str], *, seed: int) -> FederatedExamples:
    """Return examples of the same function for each client."""
    seeds = iter(range(seed * 1000, seed * 1000 + len(clients) + 2))
    return FederatedExamples(
        calibration=lines(_HELD_OUT, next(seeds)),
        held_out=lines(_HELD_OUT, next(seeds)),
        clients={client: lines(_PER_CLIENT, next(seeds)) for client in clients},
        num_classes=0,
    )
