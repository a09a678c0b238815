"""Who is missing at a barrier, what each one said last, and where it stands.

The innermost frames come from the stacks that the missing process wrote, or
that the agent beside it made it write; they are looked at beside the screen,
and looking again is a `stat` while nothing changed.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from agent.rundir.layout import RunDir, rank_stem
from agent.rundir.stacks import stacks_file
from opsdash import units
from opsdash.feed.stacks import StackDump, read_dumps
from opsdash.operations.beside import Beside
from opsdash.projections.barriers import BoardRow
from opsdash.projections.ranks import RankRow
from opsdash.screens.pane import View
from opsdash.screens.stack_words import how_to_ask
from opsdash.widgets.facts import Fact

_MAX_MISSING = 4
_MAX_FRAMES = 4
_LEAST_NS = 5_000_000_000
"""A shorter wait is no hang yet, unless the barrier says so itself."""


class _Dumps(NamedTuple):
    """What one process's file held when it was looked at."""

    size_bytes: int
    """-1: there was none."""
    dumps: tuple[StackDump, ...]


class HangFacts:
    """Facts about the longest wait that somebody misses."""

    def __init__(self, on_answer: Callable[[], None]) -> None:
        """Prepare; `on_answer` is called in the reading thread."""
        self._beside = Beside("opsdash-stacks", on_answer)
        self._dumps: dict[Path, _Dumps] = {}

    def stop(self) -> None:
        """Read nothing more."""
        self._beside.stop()

    def look(self, view: View) -> None:
        """Have the stacks of the missing read, or looked at again."""
        hung = _hung(view)
        rows = {row.rank: row for row in view.run.rank_rows(view.now_mono_ns)}
        for rank in hung.missing[:_MAX_MISSING] if hung else ():
            if rank in rows:
                self._look_at(view, rank, rows[rank].attempt)
        self.take()

    def take(self) -> bool:
        """Keep what was read since the last call; True: it tells something new."""
        is_news = False
        for path, answer in self._beside.take().items():
            dumps = answer if isinstance(answer, _Dumps) else _Dumps(-1, ())
            if isinstance(path, Path) and dumps != self._dumps.get(path):
                self._dumps[path] = dumps
                is_news = True
        return is_news

    def facts(self, view: View, *, may_act: bool) -> list[Fact]:
        """Return a block per missing rank; empty: nobody waits too long."""
        hung = _hung(view)
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
            facts += self._missing(view, rank, rows.get(rank), may_act=may_act)
        return facts

    def _missing(
        self, view: View, rank: int, row: RankRow | None, *, may_act: bool
    ) -> list[Fact]:
        label = f"rank {rank}"
        if row is None:
            return [Fact(label, "never heard", "bad")]
        facts = [Fact(label, _last_words(row), "warn")]
        read = self._dumps.get(_file_of(view, rank, row.attempt))
        if read is None:
            return [*facts, Fact("", "reading its stacks", "dim")]
        dumps = read.dumps
        if not dumps:
            note = view.run.stacks.of(rank_stem(rank))
            how = how_to_ask(view, may_act=may_act)
            words = note.reason if note else f"no stacks yet: {how}"
            return [*facts, Fact("", words, "dim")]
        frames = dumps[0].frames()[:_MAX_FRAMES]
        stack = " < ".join(frames) or dumps[0].lines[0]
        return [*facts, Fact("", f"{dumps[0].stamp or 'by signal'}: {stack}")]

    def _look_at(self, view: View, rank: int, attempt: int) -> None:
        run = RunDir(Path(view.run.directory.path))
        path = _file_of(view, rank, attempt)
        known = self._dumps.get(path)
        self._beside.ask(path, lambda: _read(run, attempt, rank_stem(rank), known))
        if known is None:
            self._beside.wait(path)


def _read(run: RunDir, attempt: int, stem: str, known: _Dumps | None) -> _Dumps:
    try:
        size = stacks_file(run, attempt, stem).stat().st_size
    except OSError:
        return _Dumps(-1, ())
    if known is not None and known.size_bytes == size:
        return known
    return _Dumps(size, tuple(read_dumps(run, attempt, stem)))


def _file_of(view: View, rank: int, attempt: int) -> Path:
    run = RunDir(Path(view.run.directory.path))
    return stacks_file(run, attempt, rank_stem(rank))


def _hung(view: View) -> BoardRow | None:
    board = view.run.board(view.now_mono_ns)
    return next((row for row in board if _is_hang(row)), None)


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
