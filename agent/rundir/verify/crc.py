"""CRC-32 at memory speed, of pieces that several threads read.

isal is a dependency and four times faster than zlib on the machines tried;
a platform without its wheel gets zlib-ng or zlib and the same results.
"""

import importlib
import zlib
from collections.abc import Callable
from typing import Protocol, cast


class Crc32(Protocol):
    """`zlib.crc32` and whatever computes the same; releases the GIL."""

    def __call__(self, data: bytes | memoryview, value: int = 0, /) -> int:
        """Return the CRC-32 of what came before (`value`) followed by `data`."""
        ...


Combine = Callable[[int, int, int], int]

_POLYNOMIAL = 0xEDB88320
_FASTEST_FIRST = ("isal.isal_zlib", "zlib_ng.zlib_ng")


def combine_crc32(first: int, second: int, second_size: int) -> int:
    """Return the CRC-32 of two pieces in a row from those of the pieces.

    Source: zlib's `crc32_combine`: appending `second_size` zero bytes is a
    linear map over GF(2), applied here by repeated squaring.

    Args:
        first: CRC-32 of the first piece.
        second: CRC-32 of the second piece.
        second_size: bytes of the second piece.
    """
    power = [_POLYNOMIAL, *(1 << bit for bit in range(31))]  # one zero bit
    for _ in range(3):
        power = _square(power)  # 8 zero bits: one byte
    while second_size:
        if second_size & 1:
            first = _times(power, first)
        second_size >>= 1
        if second_size:
            power = _square(power)
    return first ^ second


def _times(matrix: list[int], vector: int) -> int:
    product = 0
    for column in matrix:
        if not vector:
            break
        if vector & 1:
            product ^= column
        vector >>= 1
    return product


def _square(matrix: list[int]) -> list[int]:
    return [_times(matrix, column) for column in matrix]


def fastest(modules: tuple[str, ...] = _FASTEST_FIRST) -> tuple[Crc32, Combine]:
    """Return `crc32` and `combine` of the first module that is installed."""
    for name in modules:
        try:
            module = importlib.import_module(name)
        except ImportError:
            continue
        combine = getattr(module, "crc32_combine", combine_crc32)
        return cast("Crc32", module.crc32), cast("Combine", combine)
    return zlib.crc32, combine_crc32


crc32, combine = fastest()
