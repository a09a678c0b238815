import random
import zlib

import pytest

from agent.rundir.verify.crc import combine, combine_crc32, crc32, fastest

RNG = random.Random(0)


@pytest.mark.parametrize("function", [combine, combine_crc32])
@pytest.mark.parametrize("sizes", [(0, 0), (0, 7), (7, 0), (1, 1), (1000, 65_537)])
def test_pieces_combine_to_the_whole(function, sizes):
    first, second = (RNG.randbytes(size) for size in sizes)

    combined = function(zlib.crc32(first), zlib.crc32(second), len(second))

    assert combined == zlib.crc32(first + second)


def test_combining_spans_more_than_32_bits():
    size = (5 << 32) + 3

    ours = combine_crc32(0x12345678, 0x9ABCDEF0, size)

    assert ours == combine(0x12345678, 0x9ABCDEF0, size)


def test_the_fast_checksum_is_the_checksum():
    data = RNG.randbytes(100_003)

    assert crc32(memoryview(data)) == zlib.crc32(data)
    assert crc32(data[50:], crc32(data[:50])) == zlib.crc32(data)


def test_without_a_fast_module_zlib_does_it():
    function, joining = fastest(("there.is.no.such.module",))

    assert function is zlib.crc32
    assert joining is combine_crc32
