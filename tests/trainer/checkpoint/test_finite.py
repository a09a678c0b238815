import math

import pytest
import torch

from trainer.checkpoint import finite
from trainer.checkpoint.finite import find_not_finite

FLOATS = [
    torch.float16,
    torch.bfloat16,
    torch.float32,
    torch.float64,
    torch.complex64,
    torch.complex128,
    torch.float8_e5m2,
]


@pytest.mark.parametrize("dtype", FLOATS)
def test_one_bad_value_among_many_is_counted(dtype):
    values = torch.ones(1000)
    values[700] = math.nan
    values[3] = -math.inf

    found = find_not_finite(values.to(dtype))

    assert (found.num_nan, found.num_positive, found.num_negative) == (1, 0, 1)
    assert str(found) == "1 nan, 1 -inf"


@pytest.mark.parametrize("dtype", FLOATS)
def test_the_greatest_finite_values_are_finite(dtype):
    real = torch.float64 if dtype is torch.complex128 else dtype
    real = torch.float32 if dtype is torch.complex64 else real
    values = torch.full((1000,), torch.finfo(real).max, dtype=torch.float64)

    assert find_not_finite(values.to(dtype)) is None


@pytest.mark.parametrize(
    "tensor",
    [
        torch.empty(0),
        torch.tensor(1.5),
        torch.arange(5),
        torch.ones(3, dtype=torch.bool),
        torch.empty(3, device="meta"),
        torch.eye(4).to_sparse(),
        torch.zeros(3, dtype=torch.float8_e4m3fn),
        torch.ones(4, 6).T[1:],
    ],
    ids=lambda tensor: f"{tensor.dtype}-{tensor.layout}-{tensor.device}",
)
def test_what_has_no_bad_values_is_finite(tensor):
    assert find_not_finite(tensor) is None


@pytest.mark.filterwarnings("ignore:Sparse")
@pytest.mark.parametrize("make", [torch.Tensor.to_sparse, torch.Tensor.to_sparse_csr])
def test_bad_values_of_sparse_tensors_are_found(make):
    dense = torch.eye(4)
    dense[1, 1] = math.inf

    assert find_not_finite(make(dense)).num_positive == 1


def test_values_are_counted_across_blocks(monkeypatch):
    monkeypatch.setattr(finite, "_BLOCK_ELEMENTS", 7)
    values = torch.ones(50)
    values[[0, 6, 7, 49]] = math.nan

    assert find_not_finite(values).num_nan == 4


def test_four_bits_have_no_way_to_be_infinite():
    packed = torch.full((8,), 0x77, dtype=torch.uint8).view(torch.float4_e2m1fn_x2)

    assert find_not_finite(packed) is None
