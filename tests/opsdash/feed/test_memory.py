"""What is asked of the C library; the effect is measured by a benchmark."""

import ctypes
import platform
import subprocess
import sys

import pytest

from opsdash.feed.memory import map_large_blocks

GROWS_AND_SHRINKS = """
import ctypes, sys
from opsdash.feed.memory import map_large_blocks
malloc, free = ctypes.CDLL(None).malloc, ctypes.CDLL(None).free
malloc.restype, free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
heap = ctypes.CDLL(None).sbrk
heap.restype = ctypes.c_void_p
map_large_blocks()
free(malloc(8 << 20))  # from here on glibc would put such blocks on its heap
before = heap(0)
block = malloc(4 << 20)
print(heap(0) - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc only")
def test_large_blocks_stay_off_the_heap_whatever_was_freed_before():
    argv = [sys.executable, "-c", GROWS_AND_SHRINKS]

    told = subprocess.run(argv, capture_output=True, text=True, check=True)

    assert int(told.stdout) == 0


def test_where_the_c_library_has_no_such_thing_nothing_happens(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())

    assert map_large_blocks() is False
