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
from typing import Generic, Self, TypeVar

from agent.rundir.chunks.payload import PayloadReader
from agent.rundir.errors import RunDirError

NUM_LANES = max(1, min(4, os.cpu_count() or 1))

_FEW_BYTES = 4 << 20
"""Below this, starting threads costs more than it saves."""

_MAX_AHEAD = 2 * NUM_LANES
_MAX_AHEAD_BYTES = 8 << 20
"""What may wait beyond the chunk being used: large ones come one by one."""

_BEFORE_ALL = -1
"""Place of an error that belongs to no item."""

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


def for_all(
    own: PayloadReader,
    work: Callable[[PayloadReader, _Item], object],
    items: Iterable[_Item],
    total_bytes: int,
) -> None:
    """Do `work` for every item; the caller's thread takes part.

    Args:
        own: used by the caller's thread; lanes open the same store again.
        work: called with a lane's reader, from any thread.
        items: in the order in which they are begun.
        total_bytes: of all items, as far as known.

    Raises:
        RunDirError: that of the first item that has one, or a lane cannot be opened.
    """
    if total_bytes < _FEW_BYTES or NUM_LANES == 1:
        for item in items:
            work(own, item)
        return
    shared = _Shared(work, items)
    others = [
        threading.Thread(
            target=shared.do_on_own_connection,
            name=f"chunk-lane-{number}",
            args=(own,),
            daemon=True,
        )
        for number in range(1, NUM_LANES)
    ]
    try:
        for other in others:
            other.start()
        shared.do(own)
    finally:
        shared.is_over = True
        for other in others:
            if other.ident is not None:  # it was started
                other.join()
    if shared.errors:
        raise shared.errors[min(shared.errors)]


class _Shared(Generic[_Item]):
    """Items that several threads take in turn, until there is none or one fails."""

    def __init__(
        self, work: Callable[[PayloadReader, _Item], object], items: Iterable[_Item]
    ) -> None:
        self.is_over = False
        self.errors: dict[int, BaseException] = {}
        """By position: all before the first were begun, and are ended."""
        self._work, self._items = work, enumerate(items)
        self._lock = threading.Lock()

    def do(self, reader: PayloadReader) -> None:
        while not self.is_over:
            with self._lock:
                taken = next(self._items, None)
            if taken is None:
                return
            place, item = taken
            try:
                self._work(reader, item)
            except BaseException as error:  # noqa: BLE001 - it is raised where all of this is waited for
                self.errors[place] = error
                self.is_over = True

    def do_on_own_connection(self, own: PayloadReader) -> None:
        try:
            twin = own.take_twin()
        except RunDirError as error:
            self.errors[_BEFORE_ALL] = error
            self.is_over = True
            return
        self.do(twin)
        own.give_back(twin)


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
            self._own.give_back(reader)

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
            reader = self._own.take_twin()
            self._opened.append(reader)
            self._local.reader = reader
        return reader
