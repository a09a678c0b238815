"""Advice to the kernel that changes how fast something is done, never what.

Linux knows both; where a system does not, or refuses, nothing happens.
"""

import contextlib
import ctypes
import mmap
import os
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from torch import Tensor

_HUGE_BYTES: Final = 4 << 20
"""Below this, a tensor has too few whole 2 MiB pages to be worth a call."""

_SYNC_FILE_RANGE_WRITE: Final = 2
"""Start writing dirty pages, wait for none. Source: sync_file_range(2)."""

_STEP_BYTES: Final = 8 << 20

_libc = ctypes.CDLL(None)


def prefer_huge_pages(tensor: Tensor) -> None:
    """Ask for 2 MiB pages under a large tensor that was not touched yet.

    Filling 100 MB in pages of 4 KiB costs 25,000 faults.
    """
    advice = getattr(mmap, "MADV_HUGEPAGE", None)
    size = tensor.untyped_storage().nbytes()
    if advice is None or size < _HUGE_BYTES:
        return
    start = -(-tensor.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
    length = tensor.data_ptr() + size - start
    _libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(length), advice)


class WriteBehind:
    """Lets the disk begin with what was written long before it must be durable.

    An fsync then finds little left to wait for. It promises nothing: what must
    survive a power cut is synced all the same. Use it in a `with` statement.
    """

    def __init__(self, path: Path) -> None:
        """Watch over the file at `path`; small amounts never open it."""
        self._path = path
        self._fd: int | None = None
        self._waiting_bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._fd is not None:
            os.close(self._fd)

    def wrote(self, size: int) -> None:
        """Count bytes that were written, and start the disk now and then."""
        self._waiting_bytes += size
        if self._waiting_bytes >= _STEP_BYTES:
            self._waiting_bytes = 0
            with contextlib.suppress(OSError):
                self._start()

    def _start(self) -> None:
        start = getattr(_libc, "sync_file_range", None)
        if start is None:
            return
        if self._fd is None:
            self._fd = os.open(self._path, os.O_RDONLY)
        everything = ctypes.c_int64(0)
        start(self._fd, everything, everything, _SYNC_FILE_RANGE_WRITE)
