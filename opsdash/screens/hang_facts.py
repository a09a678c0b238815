"""Who is missing at a barrier, or stands still elsewhere, and where each one stands.

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
from opsdash.projections.reasons import silent, still
from opsdash.screens.pane import View
from opsdash.screens.stack_words import how_to_ask, is_over
from opsdash.widgets.facts import Fact

_MAX_TOLD = 4
"""Ranks whose last words and stacks are told."""
_MAX_FRAMES = 4
_LEAST_NS = 5_000_000_000
"""A shorter wait is no hang yet, unless the barrier says so itself."""


class _Dumps(NamedTuple):
    """What one process's file held when it was looked at."""

    size_bytes: int
    """-1: there was none."""
    dumps: tuple[StackDump, ...]


class _Trouble(NamedTuple):
    """What holds the run up, and of whom more is told."""

    head: Fact
    ranks: tuple[int, ...]


class HangFacts:
    """Facts about the longest wait that somebody misses, or about who stands still."""

    def __init__(self, on_answer: Callable[[], None]) -> None:
        """Prepare; `on_answer` is called in the reading thread."""
        self._beside = Beside("opsdash-stacks", on_answer)
        self._dumps: dict[Path, _Dumps] = {}
        self._judged: tuple[View, _Trouble | None] | None = None

    def stop(self) -> None:
        """Read nothing more."""
        self._beside.stop()

    def look(self, view: View) -> None:
        """Have the stacks of those in question read, or looked at again."""
        trouble = self._trouble(view)
        rows = _rows(view)
        for rank in trouble.ranks[:_MAX_TOLD] if trouble else ():
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
        """Return a block per rank in question; empty: nobody holds the run up."""
        trouble = self._trouble(view)
        if trouble is None:
            return []
        rows, facts, without = _rows(view), [trouble.head], []
        for rank in trouble.ranks[:_MAX_TOLD]:
            row = rows.get(rank)
            if row is None:
                facts.append(Fact(f"rank {rank}", "never heard", "bad"))
                continue
            facts.append(Fact(f"rank {rank}", _last_words(view, row), "warn"))
            stacks = self._stacks(view, rank, row)
            facts += [stacks] if stacks else []
            without += [] if stacks else [rank]
        if without:
            how = how_to_ask(view, may_act=may_act)
            whose = f" of rank {units.rank_ranges(without)}"
            whose = whose if len(without) < len(trouble.ranks) else ""
            facts.append(Fact("", f"no stacks yet{whose}: {how}", "dim"))
        return facts

    def _stacks(self, view: View, rank: int, row: RankRow) -> Fact | None:
        """Return where a rank stands, or why nobody can tell; None: nobody asked."""
        read = self._dumps.get(_file_of(view, rank, row.attempt))
        if read is None:
            return Fact("", "reading its stacks", "dim")
        if read.dumps:
            newest = read.dumps[0]
            frames = newest.frames()[:_MAX_FRAMES]
            stack = " < ".join(frames) or newest.lines[0]
            return Fact("", f"{newest.stamp or 'by signal'}: {stack}")
        note = view.run.stacks.of(rank_stem(rank))
        is_news = note is not None and note.attempt == row.attempt
        return Fact("", note.reason, "dim") if note and is_news else None

    def _trouble(self, view: View) -> _Trouble | None:
        """Return what holds the run up; of one moment it is found once."""
        if self._judged is None or self._judged[0] is not view:
            self._judged = (view, _trouble(view))
        return self._judged[1]

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


def _trouble(view: View) -> _Trouble | None:
    """Return the longest wait that somebody misses; else who stands still."""
    board = view.run.board(view.now_mono_ns)
    hung = next((row for row in board if _is_hang(row)), None)
    if hung is None:
        return None if is_over(view) else _standstill(view)
    head = Fact(
        "hang",
        f"{hung.name} for {units.duration(hung.waited_ns)}, missing: "
        f"{units.rank_ranges(hung.missing)}",
        "bad",
    )
    return _Trouble(head, hung.missing)


def _is_hang(row: BoardRow) -> bool:
    return bool(row.missing) and (row.is_hung or row.waited_ns > _LEAST_NS)


def _standstill(view: View) -> _Trouble | None:
    """Return who is silent and who makes no progress, as the verdict has it."""
    evidence = view.run.evidence(view.now_mono_ns, view.now_ns)
    parts, ranks = [], []
    for words, rows in (
        ("silent", silent(evidence)),
        ("without progress", still(evidence)),
    ):
        found = [row.rank for row in rows if row.rank is not None]
        if found:
            who = "rank" if len(found) == 1 else "ranks"
            parts.append(f"{who} {units.rank_ranges(found)} {words}")
            ranks += found
    if not ranks:
        return None
    return _Trouble(Fact("still", "; ".join(parts), "warn"), tuple(ranks))


def _rows(view: View) -> dict[int | None, RankRow]:
    return {row.rank: row for row in view.run.rank_rows(view.now_mono_ns)}


def _last_words(view: View, row: RankRow) -> str:
    parts = [row.phase or "phase untold"]
    if row.step is not None:
        parts.append(f"step {units.count(row.step)}")
    if row.waiting_at:
        parts.append(f"waits at {row.waiting_at}")
    inside = view.run.standing(row.stem, view.now_mono_ns)
    if inside is not None:
        where = f"collective {inside.number} of group {inside.group}"
        parts.append(f"in {where} for {units.duration(inside.age_ns)}")
    if row.progress_age_ns is not None:
        parts.append(f"no progress for {units.duration(row.progress_age_ns)}")
    parts.append(f"heard {units.ago(row.seen_age_ns)}")
    if row.pid is not None and row.host:
        parts.append(f"process {row.pid} on {row.host}")
    return ", ".join(parts)
