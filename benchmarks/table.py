"""Rows of the table that every benchmark prints: a claim, both sides, the target."""

from collections.abc import Iterable
from typing import NamedTuple

HEAD = "| claim | ours | peer | ratio | target | met |"
RULE = "|---|---|---|---|---|---|"


class Row(NamedTuple):
    """One claim, measured."""

    claim: str
    ours: str
    peer: str
    ratio: str = ""
    target: str = ""
    is_met: bool | None = None
    """None: there is no target, the row is for information."""

    @property
    def text(self) -> str:
        """The row as Markdown."""
        met = {True: "yes", False: "**no**", None: ""}[self.is_met]
        cells = (self.claim, self.ours, self.peer, self.ratio, self.target, met)
        return f"| {' | '.join(cells)} |"


def times(ours: float, peer: float, *, least: float | None) -> dict[str, object]:
    """Return a row's ratio, target and verdict: how many times as fast as a peer."""
    ratio = peer / ours
    if least is None:
        return {"ratio": f"{ratio:.1f}x"}
    target = f"≥ {least:g}x"
    return {"ratio": f"{ratio:.1f}x", "target": target, "is_met": ratio >= least}


def at_most(value: float, limit: float, unit: str) -> dict[str, object]:
    """Return a row's target and verdict: no more than a limit."""
    return {"target": f"≤ {limit:g} {unit}", "is_met": value <= limit}


def print_table(rows: Iterable[Row]) -> int:
    """Print the rows; return the exit status: 1 if a target was missed."""
    rows = list(rows)
    print(HEAD)
    print(RULE)
    for row in rows:
        print(row.text)
    return int(any(row.is_met is False for row in rows))
