"""Who waits where, who is missing, and who costs what: `opsdash barriers`."""

import msgspec

from opsdash import units
from opsdash.projections.barriers import BoardRow
from opsdash.projections.hangs import InCollective
from opsdash.projections.lateness import Blame
from opsdash.projections.ranks import RankRow
from opsdash.projections.reasons import silent, still
from opsdash.projections.run import Run
from opsdash.reports.report import Report, fields, table
from opsdash.reports.status import StragglerReport, straggler_words

_MAX_ROWS = 20


class WaitingReport(msgspec.Struct, frozen=True):
    """One process that has arrived."""

    node: str
    rank: int | None
    waited_ns: int


class BarrierReport(msgspec.Struct, frozen=True):
    """A barrier at which somebody waits."""

    name: str
    index: int
    waited_ns: int
    limit_ns: int | None
    is_hung: bool
    num_expected: int | None
    arrived: tuple[WaitingReport, ...]
    missing: tuple[int, ...]


class StandingReport(msgspec.Struct, frozen=True):
    """A process that waits at no barrier and holds the run up."""

    node: str
    rank: int | None
    is_silent: bool
    """Whether its agent says nothing; else it beats and makes no progress."""
    phase: str | None
    step: int | None
    seen_age_ns: int
    progress_age_ns: int | None
    group: str | None
    """Process group of the collective that it stands in; null: nobody told."""
    collective: int | None
    """Number of that collective in its group."""


class BlameReport(msgspec.Struct, frozen=True):
    """What one rank cost the others, in the newest attempt."""

    rank: int
    lost_ns: int
    lost_rank_ns: int
    lost_frac: float | None
    window_frac: float | None
    num_last: int
    worst_lateness_ns: int
    mean_lateness_ns: float


class NameReport(msgspec.Struct, frozen=True):
    """One barrier's name, over the newest attempt."""

    name: str
    num_waits: int
    mean_wait_ns: float
    worst_lateness_ns: int


class BarriersReport(Report, frozen=True, kw_only=True):
    """The board, the blame, and the barriers by name."""

    waiting: tuple[BarrierReport, ...]
    standing: tuple[StandingReport, ...]
    """Who is silent, or makes no progress, and waits at none of them."""
    straggler: StragglerReport | None
    """Who costs most over the last steps."""
    blame: tuple[BlameReport, ...]
    barriers: tuple[NameReport, ...]


def make_barriers(run: Run, now_mono_ns: int, now_ns: int) -> BarriersReport:
    """Return the report of this moment."""
    evidence = run.evidence(now_mono_ns, now_ns)
    late = evidence.straggler
    standing = [(row, True) for row in silent(evidence)]
    standing += [(row, False) for row in still(evidence)]
    return BarriersReport(
        report="barriers",
        run=run.directory.path,
        time_ns=now_ns,
        waiting=tuple(_barrier(row) for row in evidence.board),
        standing=tuple(
            _standing(row, run.standing(row.stem, now_mono_ns), is_silent=is_silent)
            for row, is_silent in standing
        ),
        straggler=StragglerReport(*late) if late else None,
        blame=tuple(_blame(row) for row in run.lateness.blame()),
        barriers=tuple(
            NameReport(row.name, row.num_waits, row.mean_wait_ns, row.worst_lateness_ns)
            for row in run.lateness.barriers()
        ),
    )


def render_barriers(report: BarriersReport) -> list[str]:
    """Return the report as lines."""
    lines: list[str] = []
    for row in report.waiting[:_MAX_ROWS]:
        lines += _render_waiting(row)
    for one in report.standing[:_MAX_ROWS]:
        lines.append(_render_standing(one))
    if not (report.waiting or report.standing):
        lines.append("nobody waits at a barrier now")
    if report.straggler is not None:
        lines.append(straggler_words(report.straggler))
    lines += ["", *_render_blame(report)] if report.blame else []
    lines += ["", *_render_names(report)] if report.barriers else []
    return lines


def _render_waiting(row: BarrierReport) -> list[str]:
    limit = "" if row.limit_ns is None else f" of {units.duration(row.limit_ns)}"
    state = "HUNG" if row.is_hung else "waiting"
    ranks = [waiting.rank for waiting in row.arrived if waiting.rank is not None]
    others = [waiting.node for waiting in row.arrived if waiting.rank is None]
    arrived = ", ".join([units.rank_ranges(ranks), *others] if ranks else others)
    waited = units.duration(row.waited_ns)
    return [
        f"{state:<10}{row.name} #{row.index} for {waited}{limit}",
        *fields(
            [
                ("  in", arrived or "nobody"),
                ("  missing", units.rank_ranges(row.missing) or "nobody"),
            ]
        ),
    ]


def _render_standing(row: StandingReport) -> str:
    state, age_ns = "STILL", row.progress_age_ns
    if row.is_silent:
        state, age_ns = "SILENT", row.seen_age_ns
    parts = [f"{row.node} for {units.duration(age_ns)}", row.phase or "phase untold"]
    parts += [f"step {units.count(row.step)}"] if row.step is not None else []
    if row.group is not None:
        parts.append(f"in collective {row.collective} of group {row.group}")
    return f"{state:<10}{', '.join(parts)}"


def _render_blame(report: BarriersReport) -> list[str]:
    rows = [
        (
            str(row.rank),
            units.percent(row.window_frac),
            units.percent(row.lost_frac),
            units.duration(row.lost_ns),
            units.count(row.num_last),
            units.duration(row.worst_lateness_ns),
        )
        for row in report.blame[:_MAX_ROWS]
    ]
    head = ("rank", "lately", "of the run", "lost", "times last", "worst")
    return table(head, rows, right=range(5))


def _render_names(report: BarriersReport) -> list[str]:
    rows = [
        (
            units.count(row.num_waits),
            units.duration(int(row.mean_wait_ns)),
            units.duration(row.worst_lateness_ns),
            row.name,
        )
        for row in report.barriers[:_MAX_ROWS]
    ]
    return table(
        ("waits", "mean wait", "worst lateness", "barrier"), rows, right=range(3)
    )


def _barrier(row: BoardRow) -> BarrierReport:
    return BarrierReport(
        name=row.name,
        index=row.index,
        waited_ns=row.waited_ns,
        limit_ns=row.limit_ns,
        is_hung=row.is_hung,
        num_expected=row.num_expected,
        arrived=tuple(WaitingReport(w.stem, w.rank, w.waited_ns) for w in row.arrived),
        missing=row.missing,
    )


def _standing(
    row: RankRow, inside: InCollective | None, *, is_silent: bool
) -> StandingReport:
    return StandingReport(
        node=row.node,
        rank=row.rank,
        is_silent=is_silent,
        phase=row.phase,
        step=row.step,
        seen_age_ns=row.seen_age_ns,
        progress_age_ns=row.progress_age_ns,
        group=inside.group if inside else None,
        collective=inside.number if inside else None,
    )


def _blame(row: Blame) -> BlameReport:
    return BlameReport(
        rank=row.rank,
        lost_ns=row.lost_ns,
        lost_rank_ns=row.lost_rank_ns,
        lost_frac=row.lost_frac,
        window_frac=row.window_frac,
        num_last=row.num_last,
        worst_lateness_ns=row.worst_ns,
        mean_lateness_ns=row.mean_ns,
    )
