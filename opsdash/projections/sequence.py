"""Count the events that are missing in a file, from their sequence numbers.

Threads of one process may swap lines, and lines that waited in memory while a
file system blocked come long after later ones. So a number that is skipped is
missing when it has not come after a while, and found again when it comes at
last. A number that neither follows nor was skipped begins a new count, as in a
file that is read again.
"""

_PATIENCE = 64
"""Numbers after which one that was skipped is missing."""
_MAX_GAPS = 64
"""That are remembered number by number."""


class Sequence:
    """The numbers of one process's events, in the order in which they stand."""

    def __init__(self) -> None:
        self._num_lost = 0
        """In gaps that are not remembered any more."""
        self._forgotten = 0
        """Below it lie gaps of this count that are not remembered."""
        self._last: int | None = None
        self._gaps: list[range] = []
        """Numbers that were skipped and have not come, in order."""
        self._overdue = 0

    @property
    def num_missing(self) -> int:
        """Numbers that were skipped a while ago and have not come since."""
        return self._num_lost + self._overdue

    def begin(self) -> None:
        """Start another file: its first number is taken as it is."""
        self._num_lost += sum(len(gap) for gap in self._gaps)
        self._gaps, self._overdue = [], 0
        self._last, self._forgotten = None, 0

    def take(self, seq: int) -> bool:
        """Take in the next event's number; whether more are missing than before."""
        last = self._last
        if last is None or seq == last + 1:
            self._last = seq
            return bool(self._gaps) and self._recount()
        if seq > last:
            self._last = seq
            self._gaps.append(range(last + 1, seq))
            return self._recount()
        if not self._fill(seq) and last - seq > _PATIENCE:
            self.begin()
            self._last = seq
        return False

    def _fill(self, seq: int) -> bool:
        """Take a number out of the gap that it left; False: it left none."""
        for at, gap in enumerate(self._gaps):
            if seq in gap:
                parts = (range(gap.start, seq), range(seq + 1, gap.stop))
                self._gaps[at : at + 1] = [part for part in parts if part]
                self._recount()
                return True
        is_forgotten = 0 < seq < self._forgotten
        if is_forgotten:
            self._num_lost = max(0, self._num_lost - 1)
        return is_forgotten

    def _recount(self) -> bool:
        """Count what is overdue; whether that is more than before."""
        assert self._last is not None
        before = self.num_missing
        while len(self._gaps) > _MAX_GAPS:
            gap = self._gaps.pop(0)
            self._num_lost += len(gap)
            self._forgotten = max(self._forgotten, gap.stop)
        oldest = self._last - _PATIENCE
        self._overdue = sum(len(gap) for gap in self._gaps if gap.start < oldest)
        return self.num_missing > before
