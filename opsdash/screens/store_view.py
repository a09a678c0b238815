"""One node's chunk store as the browser sees it: its rounds, one of them, two compared.

Nothing here reads: a thread does, and what it found is taken over by `take`. A
store may be pruned, damaged or gone at any moment, which is a text to show.
"""

from collections.abc import Callable
from pathlib import Path

from agent.rundir.chunks.reader import ChunkStoreReader
from agent.rundir.chunks.records import ChunkRow, RoundRow
from agent.rundir.errors import RunDirError
from opsdash.operations.diff_rounds import RoundsDiff, diff_rounds
from opsdash.operations.store_reading import StoreReading
from opsdash.screens.chunk_pages import ChunkPages
from opsdash.screens.chunk_rows import ChunkRows

_ROUNDS = "rounds"


class StoreView:
    """A store that is being looked into."""

    def __init__(self, node: str, path: Path, on_answer: Callable[[], None]) -> None:
        """Begin to read its rounds.

        Args:
            node: Who owns it.
            path: Its file.
            on_answer: Called, by another thread, when `take` has something to do.
        """
        self.node = node
        self.path = path
        self.error = ""
        """Why there is nothing to see; empty: there is, or it is not known yet."""
        self.rounds: list[RoundRow] | None = None
        """As they were at the last look, newest first; None: not read yet."""
        self.chunks: ChunkRows | None = None
        """Of the round that was opened; None: none was."""
        self.diff: RoundsDiff | None = None
        """The newest comparison that is done."""
        self.comparing: tuple[int, int] | None = None
        """The rounds that are being compared."""
        self.diff_error: RunDirError | None = None
        """Why the newest comparison failed."""
        self._reading = StoreReading(path, on_answer)
        self.refresh()

    def close(self) -> None:
        """Let go of the file."""
        self.leave_round()
        self.comparing = None
        self._reading.stop()

    def refresh(self) -> None:
        """Have the rounds read again."""
        self._reading.ask(_ROUNDS, lambda reader: reader.rounds()[::-1])

    def take(self) -> None:
        """Take over what was read."""
        for what, answer in self._reading.take().items():
            if what == _ROUNDS:
                self._take_rounds(answer)
            elif self.chunks is not None:
                self.chunks.take(what, answer)
            if what == self.comparing:
                self._take_diff(answer)

    def round(self, round_num: int) -> RoundRow | None:
        """Return a round that was there at the last look."""
        return next((r for r in self.rounds or () if r.round_num == round_num), None)

    def open_round(self, round_num: int) -> bool:
        """Stand before a round's chunks; False: it is not there."""
        self.leave_round()
        row = self.round(round_num)
        if row is None:
            return False
        pages = ChunkPages(self._reading, round_num)
        self.chunks = ChunkRows(row, self.path, pages)
        return True

    def leave_round(self) -> None:
        """Forget the round that was opened."""
        if self.chunks is not None:
            self.chunks.close()
            self.chunks = None

    def chunk(self, chunk_id: int) -> ChunkRow | None:
        """Return one chunk of the round that is open, if it was read."""
        return self.chunks.chunk(chunk_id) if self.chunks is not None else None

    def compare(self, old: int, new: int) -> None:
        """Have two rounds compared; `diff` or `diff_error` has the outcome."""
        wanted = (old, new)
        self.comparing, self.diff_error = wanted, None

        def read(_: ChunkStoreReader) -> RoundsDiff:
            return diff_rounds(
                self.path, old, new, is_cancelled=lambda: self.comparing != wanted
            )

        self._reading.ask(wanted, read)

    def stop_comparing(self) -> None:
        """Give the comparison up."""
        self.comparing = None

    def _take_rounds(self, answer: object) -> None:
        if isinstance(answer, list):
            self.rounds, self.error = answer, ""
        elif isinstance(answer, RunDirError):
            hint = f" ({answer.hint})" if answer.hint else ""
            self.rounds, self.error = [], f"{answer}{hint}"

    def _take_diff(self, answer: object) -> None:
        self.comparing = None
        if isinstance(answer, RoundsDiff):
            self.diff = answer
        elif isinstance(answer, RunDirError):
            self.diff_error = answer
