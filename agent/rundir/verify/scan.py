"""Read a whole file once, as fast as memory allows, and checksum its parts.

Without a digest the file is cut into ranges that threads read and checksum on
their own; the CRC-32 of a record is then put together from its pieces. A
digest needs the bytes in order: one thread reads and checksums, another hashes
the same buffer. Buffers are reused and fit the caches; nothing is mapped.
"""

import threading
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple, TypeVar

from agent.rundir.verify.crc import combine, crc32
from agent.rundir.verify.digest import Hasher
from agent.rundir.verify.source import Source
from agent.rundir.verify.watch import Watch

_RANGE_BYTES = 8 << 20
_BLOCK_BYTES = 1 << 20
_HASH_BLOCK_BYTES = 4 << 20
_HASH_BUFFERS = 3

_T = TypeVar("_T")


class Extent(NamedTuple):
    """Bytes of the file that carry one CRC-32: `[start, stop)`, not empty."""

    start: int
    stop: int


class _Piece(NamedTuple):
    extent: int
    size: int
    crc: int


def scan(
    source: Source,
    extents: Sequence[Extent],
    hasher: Hasher | None,
    *,
    num_threads: int,
    watch: Watch,
) -> list[int]:
    """Return the CRC-32 of each extent; with a hasher, feed it the whole file.

    Args:
        source: what to read.
        extents: ascending, not overlapping, within the file.
        hasher: None when no digest is asked for.
        num_threads: that read and compute, 1 or more.
        watch: is told of every byte of the file exactly once.

    Raises:
        EndsEarlyError: the file became shorter meanwhile.
        NotReadableError: the disk cannot deliver.
        VerifyCancelled: the caller asked to stop.
    """
    checksums = _Checksums(extents)
    if hasher is None:
        _scan_ranges(source, checksums, num_threads, watch)
    else:
        _scan_in_order(source, checksums, hasher, num_threads, watch)
    return checksums.values


class _Checksums:
    """Running CRC-32 per extent, from pieces that arrive in file order."""

    def __init__(self, extents: Sequence[Extent]) -> None:
        self.values = [0] * len(extents)
        self._extents = extents
        self._starts = [extent.start for extent in extents]

    def pieces(self, block: memoryview, offset: int) -> Iterator[_Piece]:
        """Checksum the parts of a block that lie in extents; changes nothing."""
        end = offset + len(block)
        first = max(0, bisect_right(self._starts, offset) - 1)
        for index in range(first, len(self._extents)):
            extent = self._extents[index]
            if extent.start >= end:
                return
            start, stop = max(extent.start, offset), min(extent.stop, end)
            if start < stop:
                part = block[start - offset : stop - offset]
                yield _Piece(index, stop - start, crc32(part))

    def add(self, pieces: list[_Piece]) -> None:
        """Append pieces to their extents' checksums."""
        for extent, size, crc in pieces:
            self.values[extent] = combine(self.values[extent], crc, size)


def _scan_ranges(
    source: Source, checksums: _Checksums, num_threads: int, watch: Watch
) -> None:
    per_thread = threading.local()

    def read_range(offset: int) -> tuple[int, list[_Piece]]:
        if not hasattr(per_thread, "buffer"):
            per_thread.buffer = memoryview(bytearray(_BLOCK_BYTES))
        pieces: list[_Piece] = []
        stop = min(offset + _RANGE_BYTES, source.size)
        for start in range(offset, stop, _BLOCK_BYTES):
            block = per_thread.buffer[: min(_BLOCK_BYTES, stop - start)]
            source.read_into(block, start)
            pieces += checksums.pieces(block, start)
        return stop - offset, pieces

    ranges = range(0, source.size, _RANGE_BYTES)
    for num_bytes, pieces in _map_in_order(read_range, ranges, num_threads):
        checksums.add(pieces)
        watch.advance(num_bytes)


def _map_in_order(
    function: Callable[[int], _T], items: Sequence[int], num_threads: int
) -> Iterator[_T]:
    """Apply a function in threads, with few results waiting at a time."""
    if num_threads <= 1 or len(items) <= 1:
        yield from map(function, items)
        return
    with ThreadPoolExecutor(num_threads, "verify") as pool:
        waiting: deque[Future[_T]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > 2 * num_threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _scan_in_order(
    source: Source,
    checksums: _Checksums,
    hasher: Hasher,
    num_threads: int,
    watch: Watch,
) -> None:
    if num_threads <= 1:
        buffer = memoryview(bytearray(_BLOCK_BYTES))
        for start in range(0, source.size, _BLOCK_BYTES):
            block = buffer[: min(_BLOCK_BYTES, source.size - start)]
            source.read_into(block, start)
            hasher.update(block)
            checksums.add(list(checksums.pieces(block, start)))
            watch.advance(len(block))
        return
    with ThreadPoolExecutor(1, "verify-hash") as hash_thread:
        _hash_beside(source, checksums, hasher, hash_thread, watch)


def _hash_beside(
    source: Source,
    checksums: _Checksums,
    hasher: Hasher,
    hash_thread: ThreadPoolExecutor,
    watch: Watch,
) -> None:
    buffers = [memoryview(bytearray(_HASH_BLOCK_BYTES)) for _ in range(_HASH_BUFFERS)]
    hashing: deque[Future[object]] = deque()
    for turn, start in enumerate(range(0, source.size, _HASH_BLOCK_BYTES)):
        if len(hashing) == _HASH_BUFFERS:
            hashing.popleft().result()  # the buffer that is filled next is free
        size = min(_HASH_BLOCK_BYTES, source.size - start)
        block = buffers[turn % _HASH_BUFFERS][:size]
        source.read_into(block, start)
        hashing.append(hash_thread.submit(hasher.update, block))
        checksums.add(list(checksums.pieces(block, start)))
        watch.advance(size)
    for future in hashing:
        future.result()
