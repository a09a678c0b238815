"""Examples are shared out whole, by seed, and as unevenly as asked."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.data.digits import federated_digits, load_digits
from trainer.data.examples import dirichlet_parts, held_out_parts
from trainer.data.linear import federated_lines

KEYS = ["client-1", "client-2", "client-3"]


@given(st.integers(1, 6), st.sampled_from([0.1, 0.5, 10.0]), st.integers(0, 2**31))
@settings(max_examples=40, deadline=None)
def test_every_example_has_exactly_one_owner(num_parts, alpha, seed):
    labels = torch.arange(600) % 10

    parts = dirichlet_parts(labels, num_parts, alpha, seed)

    assert len(parts) == num_parts
    assert torch.equal(torch.cat(parts).sort().values, torch.arange(600))
    assert min(len(part) for part in parts) >= 2


def test_the_same_seed_gives_the_same_shares_and_another_does_not():
    labels = torch.arange(600) % 10

    first, again, other = (dirichlet_parts(labels, 3, 0.5, s) for s in (1, 1, 2))

    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_a_small_alpha_makes_mixtures_that_differ():
    labels = torch.arange(6000) % 10

    def spread(alpha):
        parts = dirichlet_parts(labels, 3, alpha, 1)
        shares = [torch.bincount(labels[p], minlength=10) / len(p) for p in parts]
        return float(torch.stack(shares).std(0).mean())

    assert spread(0.1) > 5 * spread(100.0)


@pytest.mark.parametrize(
    ("num", "parts", "alpha"), [(3, 2, 1.0), (10, 0, 1.0), (10, 2, 0.0)]
)
def test_shares_that_cannot_be_are_refused(num, parts, alpha):
    with pytest.raises(ValueError, match="cannot be shared"):
        dirichlet_parts(torch.zeros(num, dtype=torch.int64), parts, alpha, 1)


def test_what_is_set_apart_is_nowhere_else():
    (first, second), rest = held_out_parts(100, [0.1, 0.2], seed=3)

    assert (len(first), len(second), len(rest)) == (10, 20, 70)
    everything = torch.cat([first, second, rest]).sort().values
    assert torch.equal(everything, torch.arange(100))


def test_the_digits_are_all_there():
    digits = load_digits()

    assert digits.inputs.shape == (1797, 1, 8, 8)
    assert digits.inputs.dtype is torch.float32
    assert (float(digits.inputs.min()), float(digits.inputs.max())) == (0.0, 1.0)
    assert torch.bincount(digits.labels).tolist() == [
        178,
        182,
        177,
        183,
        181,
        182,
        181,
        179,
        174,
        180,
    ]


def test_no_client_trains_on_what_is_measured():
    split = federated_digits(KEYS, alpha=0.5, seed=1)

    sizes = [len(examples) for examples in split.clients.values()]
    assert list(split.clients) == KEYS
    assert sum(sizes) + len(split.calibration) + len(split.held_out) == 1797
    seen = {row.numpy().tobytes() for e in split.clients.values() for row in e.inputs}
    held_out = [row.numpy().tobytes() for row in split.held_out.inputs]
    assert not seen & set(held_out)


def test_the_lines_follow_one_function_for_all():
    split = federated_lines(KEYS, seed=1)

    joined = torch.cat([e.inputs for e in split.clients.values()])
    targets = torch.cat([e.labels for e in split.clients.values()])
    ones = torch.ones(len(joined), 1)
    solution = torch.linalg.lstsq(torch.cat([joined, ones], 1), targets).solution
    expected = torch.cat([torch.linspace(-1, 1, 10), torch.tensor([0.5])])
    assert torch.allclose(solution.flatten(), expected, atol=0.05)
    assert not torch.equal(
        split.clients["client-1"].inputs, split.clients["client-2"].inputs
    )
