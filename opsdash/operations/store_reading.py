"""One thread that reads one chunk store for a screen, the newest wish first.

What is in sight now matters more than what was a moment ago, and a wish that is
repeated while it waits is one wish. Whoever draws picks answers up when it is
told that there are some; a failure is an answer too and is never raised there.
"""

import threading
from collections.abc import Callable, Hashable, Mapping
from pathlib import Path
from typing import TypeAlias

from agent.rundir.chunks.reader import ChunkStoreReader
from agent.rundir.errors import RunDirError

Read: TypeAlias = Callable[[ChunkStoreReader], object]
_MAX_WAITING = 32
"""Older wishes are forgotten: whoever still wants the answer asks again."""


class StoreReading:
    """A store that is read beside a screen until `stop`."""

    def __init__(self, path: Path, on_answer: Callable[[], None]) -> None:
        """Begin; the store is opened at the first wish.

        Args:
            path: The store's file.
            on_answer: Called in the reading thread after each answer.
        """
        self._path, self._on_answer = path, on_answer
        self._wishes: dict[Hashable, Read] = {}
        self._present: Hashable = None
        self._answers: dict[Hashable, object] = {}
        self._changed = threading.Condition()
        self._is_stopping = False
        self._thread = threading.Thread(
            target=self._run, name="opsdash-store", daemon=True
        )
        self._thread.start()

    def ask(self, what: Hashable, read: Read) -> None:
        """Wish for something; nothing happens where it is being read already."""
        with self._changed:
            if what == self._present:
                return
            self._wishes.pop(what, None)
            self._wishes[what] = read
            if len(self._wishes) > _MAX_WAITING:
                del self._wishes[next(iter(self._wishes))]
            self._changed.notify()

    def take(self) -> Mapping[Hashable, object]:
        """Return what was answered since the last call; a failure as its error."""
        with self._changed:
            answers, self._answers = self._answers, {}
        return answers

    def stop(self) -> None:
        """Let go of the store as soon as the present read is done."""
        with self._changed:
            self._is_stopping = True
            self._changed.notify()

    def _run(self) -> None:
        reader: ChunkStoreReader | None = None
        while (wish := self._next()) is not None:
            what, read = wish
            answer: object
            try:
                reader = reader or ChunkStoreReader(self._path)
                answer = read(reader)
            except RunDirError as error:
                answer = error
            except Exception as error:  # noqa: BLE001 - a thread that ends without a word is never seen
                answer = RunDirError(f"{type(error).__name__}: {error}")
            with self._changed:
                self._answers[what] = answer
                self._present = None
            self._on_answer()
        if reader is not None:
            reader.close()

    def _next(self) -> tuple[Hashable, Read] | None:
        """Wait for a wish; None: it is over."""
        with self._changed:
            self._changed.wait_for(lambda: self._wishes or self._is_stopping)
            if self._is_stopping:
                return None
            what, read = self._wishes.popitem()
            self._present = what
            return what, read
