"""Count the events that are missing in a file, from their sequence numbers.

Two threads of one process may swap two lines, so a number that is skipped is
missing only when it has not come after a while. A number that begins anew, as
in a file that is read again, begins a new count.
"""

_PATIENCE = 64
"""Events after which a number that was skipped is missing."""


class Sequence:
    """The numbers of one process's events, in the order in which they stand."""

    def __init__(self) -> None:
        self.num_missing = 0
        self._last: int | None = None
        self._skipped: set[int] = set()

    def begin(self) -> None:
        """Start another file: its first number is taken as it is."""
        self.num_missing += len(self._skipped)
        self._skipped.clear()
        self._last = None

    def take(self, seq: int) -> bool:
        """Take in the next event's number; whether more are missing than before."""
        last = self._last
        if last is None or seq == last + 1:
            self._last = seq
        elif seq > last:
            self._last = seq
            return self._skip(last + 1, seq)
        elif seq in self._skipped:
            self._skipped.discard(seq)
        elif last - seq > _PATIENCE:
            self.begin()
            self._last = seq
        return bool(self._skipped) and self._lose_patience()

    def _skip(self, first: int, stop: int) -> bool:
        if stop - first > _PATIENCE:
            self.num_missing += stop - first
            return True
        self._skipped.update(range(first, stop))
        return self._lose_patience()

    def _lose_patience(self) -> bool:
        assert self._last is not None
        oldest = self._last - _PATIENCE
        lost = [seq for seq in self._skipped if seq < oldest]
        self.num_missing += len(lost)
        self._skipped.difference_update(lost)
        return bool(lost)
