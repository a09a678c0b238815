"""What the chunk stores of a run hold now, looked at beside a screen.

Only a store whose file changed is opened again, so that a look at those that
stand still costs two `stat` each.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from agent.rundir.chunks.errors import StoreLockedError
from agent.rundir.errors import RunDirError
from agent.rundir.layout import RunDir
from opsdash.operations.beside import Beside
from opsdash.operations.store_now import StoredNow, stored_now

Looked: TypeAlias = StoredNow | RunDirError | None
"""What is in a store; why it cannot be looked into; None: it is gone."""
_Signature: TypeAlias = tuple[tuple[int, int] | None, ...]
_PAUSE_NS = 1_000_000_000
"""From one look to the next."""
_MAX_OPENED = 64
"""Stores at one look; the others have their turn at the next ones."""


class StoresNow:
    """Looks into stores until `stop`; never in the thread that asks."""

    def __init__(self, on_answer: Callable[[], None]) -> None:
        """Prepare; `on_answer` is called in the thread that looks, after each look."""
        self.found: dict[str, StoredNow | RunDirError] = {}
        """By node, as far as it was looked at."""
        self._beside = Beside("opsdash-stores", on_answer)
        self._looked_ns: int | None = None
        self._seen: dict[str, _Signature] = {}
        """How each file was when it was opened; only the thread has to do with it."""

    def look(self, run: RunDir, nodes: tuple[str, ...], now_mono_ns: int) -> None:
        """Have those that changed looked at, once it is time again."""
        last_ns = self._looked_ns
        if last_ns is not None and 0 <= now_mono_ns - last_ns < _PAUSE_NS:
            return
        self._looked_ns = now_mono_ns
        self._beside.ask("stores", lambda: self._changed(run, nodes))

    def take(self) -> None:
        """Take over what was found."""
        answer = self._beside.take().get("stores")
        if not isinstance(answer, dict):
            return
        for node, found in answer.items():
            if found is None:
                self.found.pop(node, None)
            else:
                self.found[node] = found

    def stop(self) -> None:
        """Look no more."""
        self._beside.stop()

    def _changed(self, run: RunDir, nodes: tuple[str, ...]) -> dict[str, Looked]:
        looked: dict[str, Looked] = {}
        for node in nodes:
            path = run.chunk_store(node)
            signature = _signature(path)
            if signature == self._seen.get(node):
                continue
            self._seen[node] = signature
            if signature[0] is None:
                looked[node] = None
                continue
            try:
                looked[node] = stored_now(path)
            except StoreLockedError:
                del self._seen[node]  # it opens at one of the next looks
            except RunDirError as error:
                looked[node] = error
            if len(looked) == _MAX_OPENED:
                break
        return looked


def _signature(path: Path) -> _Signature:
    """Return what changes when a store does: what is new lies in its log first."""
    return tuple(_stat(one) for one in (path, path.with_name(f"{path.name}-wal")))


def _stat(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns
