"""Who is missing at a barrier, what each one said last, and where it stands.

The innermost frames come from the stacks that the missing process wrote, or
that the agent beside it made it write; reading them again is a `stat` while
nothing changed.
"""

from pathlib import Path

from agent.rundir.layout import RunDir, rank_stem
from agent.rundir.stacks import stacks_file
from opsdash import units
from opsdash.feed.stacks import StackDump, read_dumps
from opsdash.projections.barriers import BoardRow
from opsdash.projections.ranks import RankRow
from opsdash.screens.pane import View
from opsdash.widgets.facts import Fact

_MAX_MISSING = 4
_MAX_FRAMES = 4
_LEAST_NS = 5_000_000_000
"""A shorter wait is no hang yet, unless the barrier says so itself."""


class HangFacts:
    """Facts about the longest wait that somebody misses."""

    def __init__(self) -> None:
        self._dumps: dict[Path, tuple[int, list[StackDump]]] = {}

    def facts(self, view: View) -> list[Fact]:
        """Return a block per missing rank; empty: nobody waits too long."""
        board = view.run.board(view.now_mono_ns)
        hung = next((row for row in board if _is_hang(row)), None)
        if hung is None:
            return []
        rows = {row.rank: row for row in view.run.rank_rows(view.now_mono_ns)}
        facts = [
            Fact(
                "hang",
                f"{hung.name} for {units.duration(hung.waited_ns)}, missing: "
                f"{units.rank_ranges(hung.missing)}",
                "bad",
            )
        ]
        for rank in hung.missing[:_MAX_MISSING]:
            facts += self._missing(view, rank, rows.get(rank))
        return facts

    def _missing(self, view: View, rank: int, row: RankRow | None) -> list[Fact]:
        label = f"rank {rank}"
        if row is None:
            return [Fact(label, "never heard", "bad")]
        facts = [Fact(label, _last_words(row), "warn")]
        run = RunDir(Path(view.run.directory.path))
        dumps = self._read(run, row.attempt, rank_stem(rank))
        if not dumps:
            note = view.run.stacks.of(rank_stem(rank))
            words = note.reason if note else "no stacks yet: K asks for them"
            return [*facts, Fact("", words, "dim")]
        frames = dumps[0].frames()[:_MAX_FRAMES]
        stack = " < ".join(frames) or dumps[0].lines[0]
        return [*facts, Fact("", f"{dumps[0].stamp or 'by signal'}: {stack}")]

    def _read(self, run: RunDir, attempt: int, stem: str) -> list[StackDump]:
        path = stacks_file(run, attempt, stem)
        try:
            size = path.stat().st_size
        except OSError:
            return []
        known = self._dumps.get(path)
        if known is None or known[0] != size:
            known = self._dumps[path] = (size, read_dumps(run, attempt, stem))
        return known[1]


def _is_hang(row: BoardRow) -> bool:
    return bool(row.missing) and (row.is_hung or row.waited_ns > _LEAST_NS)


def _last_words(row: RankRow) -> str:
    parts = [row.phase or "phase untold"]
    if row.step is not None:
        parts.append(f"step {units.count(row.step)}")
    if row.waiting_at:
        parts.append(f"waits at {row.waiting_at}")
    if row.progress_age_ns is not None:
        parts.append(f"no progress for {units.duration(row.progress_age_ns)}")
    parts.append(f"heard {units.ago(row.seen_age_ns)}")
    if row.pid is not None and row.host:
        parts.append(f"process {row.pid} on {row.host}")
    return ", ".join(parts)
