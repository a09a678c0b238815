"""Figures per round as the series that charts draw."""

from opsdash.projections.round_rows import RoundRow
from opsdash.screens.pane import View
from opsdash.widgets.series import Mark, Series

LOSS, ACCURACY = "loss", "accuracy"


class RoundCurves:
    """Loss and accuracy of the aggregate, by round; rebuilt only when they change."""

    def __init__(self) -> None:
        self._known: tuple[tuple[int, float | None, float | None], ...] = ()
        self.loss, self.accuracy = Series(LOSS), Series(ACCURACY)
        self.marks: tuple[Mark, ...] = ()
        """Rounds that an operator restored: a curve may jump there."""

    def follow(self, view: View) -> None:
        """Take over what is committed."""
        rows = [row for row in view.run.rounds.rows() if row.reason is not None]
        self.marks = tuple(
            Mark(row.round_num, "R", f"restored from {row.restored_from}")
            for row in rows
            if row.restored_from is not None
        )
        known = tuple(map(_figures, reversed(rows)))
        if known == self._known:
            return
        self._known = known
        self.loss, self.accuracy = Series(LOSS), Series(ACCURACY)
        self.loss.extend((n, loss) for n, loss, _ in known if loss is not None)
        self.accuracy.extend((n, frac) for n, _, frac in known if frac is not None)


def _figures(row: RoundRow) -> tuple[int, float | None, float | None]:
    return row.round_num, row.loss, row.accuracy_frac
