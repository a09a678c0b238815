"""One thread that reads for a screen, the newest wish first.

What is in sight now matters more than what was a moment ago, and a wish that is
repeated while it waits is one wish. Whoever draws picks answers up when it is
told that there are some: a mount that is dead holds up this thread and nobody
else. A failure is an answer too and is never raised there.
"""

import threading
from collections.abc import Callable, Hashable, Mapping
from typing import TypeAlias

from agent.rundir.errors import RunDirError

Read: TypeAlias = Callable[[], object]
MAX_WAITING = 32
"""Older wishes are forgotten: whoever still wants the answer asks again."""
PATIENCE_S = 0.01
"""What is on a disk that works is there by then, and drawn once instead of twice."""


def _nothing() -> None:
    pass


class Beside:
    """Reads until `stop`; the thread begins with the first wish."""

    def __init__(
        self,
        name: str,
        on_answer: Callable[[], None],
        *,
        at_end: Callable[[], None] = _nothing,
    ) -> None:
        """Wait for wishes.

        Args:
            name: Of the thread.
            on_answer: Called in the thread after each answer.
            at_end: Called in the thread when it stops.
        """
        self._on_answer, self._at_end = on_answer, at_end
        self._wishes: dict[Hashable, Read] = {}
        self._present: Hashable = None
        self._answers: dict[Hashable, object] = {}
        self._changed = threading.Condition()
        self._is_stopping = self._is_late = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def ask(self, what: Hashable, read: Read) -> None:
        """Wish for something; nothing happens where it is being read already."""
        with self._changed:
            if what == self._present or self._is_stopping:
                return
            self._wishes.pop(what, None)
            self._wishes[what] = read
            if len(self._wishes) > MAX_WAITING:
                del self._wishes[next(iter(self._wishes))]
            self._changed.notify_all()
            if self._thread.ident is None:
                self._thread.start()

    def wait(self, what: Hashable, patience_s: float | None = None) -> bool:
        """Give an answer a moment to come; True: `take` has it.

        Whoever waited in vain waits for nothing more until something was answered.

        Args:
            what: It was asked for.
            patience_s: At most so long; None: `PATIENCE_S`.
        """
        with self._changed:
            if not self._is_late and not self._is_stopping:
                self._is_late = not self._changed.wait_for(
                    lambda: what in self._answers,
                    PATIENCE_S if patience_s is None else patience_s,
                )
            return what in self._answers

    def take(self) -> Mapping[Hashable, object]:
        """Return what was answered since the last call; a failure as its error."""
        with self._changed:
            answers, self._answers = self._answers, {}
        return answers

    def stop(self) -> None:
        """Answer nothing more once the present read is done."""
        with self._changed:
            self._is_stopping = True
            self._changed.notify_all()

    def join(self, patience_s: float) -> bool:
        """Wait for the thread to end after `stop`; False: it still reads."""
        if self._thread.ident is not None:
            self._thread.join(patience_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while (wish := self._next()) is not None:
            what, read = wish
            answer: object
            try:
                answer = read()
            except RunDirError as error:
                answer = error
            except Exception as error:  # noqa: BLE001 - a thread that ends without a word is never seen
                answer = RunDirError(f"{type(error).__name__}: {error}")
            with self._changed:
                self._answers[what] = answer
                self._present, self._is_late = None, False
                self._changed.notify_all()
            self._on_answer()
        self._at_end()

    def _next(self) -> tuple[Hashable, Read] | None:
        """Wait for a wish; None: it is over."""
        with self._changed:
            self._changed.wait_for(lambda: self._wishes or self._is_stopping)
            if self._is_stopping:
                return None
            what, read = self._wishes.popitem()
            self._present = what
            return what, read
