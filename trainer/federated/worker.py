"""One thread beside the event loop, for what would hold the loop up."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

_T = TypeVar("_T")


class Worker:
    """Calls things one after the other, on the same thread."""

    def __init__(self, name: str) -> None:
        """Begin without a thread; the first call starts it."""
        self._executor = ThreadPoolExecutor(1, name)

    async def run(self, call: Callable[[], _T]) -> _T:
        """Return what the call returns; raises what it raises."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, call)

    def end(self) -> None:
        """Wait for what was called, and let the thread go."""
        self._executor.shutdown(wait=True)
