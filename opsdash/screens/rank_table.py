"""The processes of the newest attempt as fields of a table."""

from typing import NamedTuple

from agent.rundir.process import Liveness
from opsdash import units
from opsdash.projections.ranks import CLOCK_SKEW_NS, RankRow
from opsdash.projections.run_state import STALE_NS
from opsdash.screens.pane import View
from opsdash.widgets.record_table import Field
from opsdash.widgets.rows import Cell, Column

_COSTLY_FRAC = 0.1


class Process(NamedTuple):
    """One process and what its lateness costs the others."""

    row: RankRow
    lost_frac: float | None


def processes(view: View) -> list[Process]:
    """Return every process; ranks by number, the others by name."""
    shares = {
        blame.rank: blame.window_frac
        for blame in view.run.lateness.blame()
        if blame.window_frac is not None
    }
    rows = view.run.rank_rows(view.now_mono_ns)
    return [Process(r, shares.get(-1 if r.rank is None else r.rank)) for r in rows]


def _who(one: Process) -> tuple[int, str]:
    return (one.row.rank if one.row.rank is not None else 1 << 62, one.row.node)


def _phase(one: Process) -> Cell:
    row = one.row
    if row.ended is not None:
        return Cell(row.ended, "bad" if row.ended == "error" else "accent")
    if row.liveness is Liveness.DEAD:
        return Cell("gone", "bad")
    if row.seen_age_ns > STALE_NS:
        return Cell("silent", "bad")
    return Cell(row.phase or "-")


def _late(one: Process) -> Cell:
    is_costly = (one.lost_frac or 0.0) > _COSTLY_FRAC
    return Cell(units.percent(one.lost_frac), "warn" if is_costly else "dim")


def _memory(one: Process) -> int | None:
    return one.row.gpu_bytes or one.row.rss_bytes


def _per_s(num_bytes: float | None) -> str:
    return units.byte_size(num_bytes) + ("" if num_bytes is None else "/s")


def _seen(one: Process) -> Cell:
    row = one.row
    if row.ended:
        return Cell("-", "dim")
    return Cell(
        units.ago(row.seen_age_ns), "bad" if row.seen_age_ns > STALE_NS else "dim"
    )


def _where(one: Process) -> Cell:
    row = one.row
    if row.ended:
        return Cell(row.error or "", "bad" if row.error else "dim")
    parts, tone = [], "dim"
    is_heard = row.liveness is not Liveness.DEAD and row.seen_age_ns <= STALE_NS
    if row.phase and not is_heard:
        parts.append(f"was {row.phase}")
    if row.waiting_at is not None:
        # How long is seen also where there is no room for the whole name.
        parts.append(f"{units.duration(row.waiting_age_ns)} {row.waiting_at}")
    if row.clock_skew_ns is not None and abs(row.clock_skew_ns) > CLOCK_SKEW_NS:
        sign = "ahead" if row.clock_skew_ns > 0 else "behind"
        parts.append(f"clock {units.duration(abs(row.clock_skew_ns))} {sign}")
        tone = "warn"
    return Cell(", ".join(parts), tone)


FIELDS: tuple[Field[Process], ...] = (
    Field(Column("who", 8), lambda one: Cell(one.row.node), _who),
    Field(Column("phase", 10), _phase, lambda one: _phase(one).text),
    Field(
        Column("step", 8, align_right=True),
        lambda one: Cell(units.count(one.row.step)),
        lambda one: one.row.step or 0,
    ),
    Field(Column("late", 6, align_right=True), _late, lambda one: one.lost_frac or 0.0),
    Field(
        Column("memory", 8, align_right=True),
        lambda one: Cell(units.byte_size(_memory(one)), "dim"),
        lambda one: _memory(one) or 0,
    ),
    Field(Column("seen", 9, align_right=True), _seen, lambda one: one.row.seen_age_ns),
    # Up to here a screen of 120 columns has room beside the reasons.
    Field(
        Column("at", 15, flex=1),
        _where,
        lambda one: (one.row.waiting_at or "", _where(one).text),
    ),
    Field(
        Column("cpu", 6, align_right=True),
        lambda one: Cell(units.percent(one.row.cpu_frac), "dim"),
        lambda one: one.row.cpu_frac or 0.0,
    ),
    Field(
        Column("gpu", 6, align_right=True),
        lambda one: Cell(units.percent(one.row.gpu_frac), "dim"),
        lambda one: one.row.gpu_frac or 0.0,
    ),
    # Of the whole host, and last: what is told of the rank itself comes first.
    Field(
        Column("host in", 11, align_right=True),
        lambda one: Cell(_per_s(one.row.net_received_per_s), "dim"),
        lambda one: one.row.net_received_per_s or 0.0,
    ),
    Field(
        Column("host out", 11, align_right=True),
        lambda one: Cell(_per_s(one.row.net_sent_per_s), "dim"),
        lambda one: one.row.net_sent_per_s or 0.0,
    ),
)
