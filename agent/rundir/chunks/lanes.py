"""Read many chunks at once: one thread and one connection of its own per core.

Reading, hashing and copying all leave the interpreter to others, and hashing
is what a fast disk waits for. Results come in the order of what was asked
for, so that the first error is the same however the threads happen to run.
Little work stays on the caller's own connection.
"""

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self, TypeVar

from agent.rundir.chunks.connection import connect_readonly
from agent.rundir.chunks.payload import PayloadReader

NUM_LANES = max(1, min(4, os.cpu_count() or 1))

_FEW_BYTES = 4 << 20
"""Below this, starting threads costs more than it saves."""

_MAX_AHEAD = 2 * NUM_LANES
_MAX_AHEAD_BYTES = 8 << 20
"""What may wait beyond the chunk being used: large ones come one by one."""

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def iter_results(
    own: PayloadReader,
    work: Callable[[PayloadReader, _Item], _Result],
    items: Iterable[tuple[_Item, int]],
    total_bytes: int,
) -> Iterator[tuple[_Item, _Result]]:
    """Yield every item with what `work` makes of it, in order.

    Args:
        own: used by the caller's thread; lanes open the same store again.
        work: called with a lane's reader, from any thread.
        items: each with the bytes that its result may hold.
        total_bytes: of all items, as far as known.

    Raises:
        RunDirError: the first one that `work` raised, or a lane cannot be opened.
    """
    if total_bytes < _FEW_BYTES or NUM_LANES == 1:
        for item, _ in items:
            yield item, work(own, item)
        return
    pending: deque[tuple[_Item, int, Future[_Result]]] = deque()
    held = 0
    with _Lanes(own) as lanes:
        for item, size in items:
            pending.append((item, size, lanes.submit(work, item)))
            held += size
            while len(pending) > _MAX_AHEAD or held > _MAX_AHEAD_BYTES:
                held -= pending[0][1]
                yield _first(pending)
        while pending:
            yield _first(pending)


def _first(
    pending: deque[tuple[_Item, int, Future[_Result]]],
) -> tuple[_Item, _Result]:
    item, _, future = pending.popleft()
    return item, future.result()


class _Lanes:
    """Threads that each open the store when they are first asked."""

    def __init__(self, own: PayloadReader) -> None:
        self._own = own
        self._local = threading.local()
        self._opened: list[PayloadReader] = []
        self._pool = ThreadPoolExecutor(NUM_LANES, "chunk-lane")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._pool.shutdown(cancel_futures=True)
        for reader in self._opened:
            reader.conn.close()

    def submit(
        self, work: Callable[[PayloadReader, _Item], _Result], item: _Item
    ) -> Future[_Result]:
        return self._pool.submit(self._run, work, item)

    def _run(
        self, work: Callable[[PayloadReader, _Item], _Result], item: _Item
    ) -> _Result:
        return work(self._reader(), item)

    def _reader(self) -> PayloadReader:
        reader: PayloadReader | None = getattr(self._local, "reader", None)
        if reader is None:
            path, node = self._own.path, self._own.node
            reader = PayloadReader(connect_readonly(path), path, node)
            self._opened.append(reader)
            self._local.reader = reader
        return reader
