"""What is saved, whether it holds, and whether it resumes: `opsdash checkpoints`."""

import msgspec

from opsdash import units
from opsdash.projections.checkpoints import PRUNED, CheckpointRow
from opsdash.projections.run import Run
from opsdash.reports.report import Report, fields, table

_MAX_ROWS = 40


class CheckReport(msgspec.Struct, frozen=True):
    """The newest verification of a checkpoint's present bytes."""

    state: str
    level: str
    by: str
    time_ns: int
    text: str


class CheckpointReport(msgspec.Struct, frozen=True):
    """One checkpoint."""

    name: str
    directory: str
    stage: str
    number: int
    size_bytes: int | None
    digest: str | None
    created_ns: int | None
    attempt: int | None
    reason: str | None
    is_resumable: bool
    why_not: str | None
    check: CheckReport | None
    serialize_ns: int | None
    write_ns: int | None
    digest_ns: int | None
    fsync_ns: int | None
    publish_ns: int | None
    verify_ns: int | None
    loaded_in: tuple[int, ...]
    is_pinned: bool
    is_latest: bool


class CheckpointsReport(Report, frozen=True, kw_only=True):
    """All checkpoints, newest first."""

    last_verified: str | None
    """What a resume takes; None: there is nothing to take."""
    saving: str | None
    checkpoints: tuple[CheckpointReport, ...]


def make_checkpoints(run: Run, now_mono_ns: int, now_ns: int) -> CheckpointsReport:  # noqa: ARG001 - one signature for all reports
    """Return the report of this moment."""
    last = run.checkpoints.last_verified()
    return CheckpointsReport(
        report="checkpoints",
        run=run.directory.path,
        time_ns=now_ns,
        last_verified=last.name if last else None,
        saving=run.checkpoints.saving,
        checkpoints=tuple(_checkpoint(row) for row in run.checkpoints.rows()),
    )


def render_checkpoints(report: CheckpointsReport) -> list[str]:
    """Return the report as lines."""
    if report.last_verified is None:
        lines = ["no checkpoint can be resumed from"]
    else:
        lines = [f"a resume takes {report.last_verified}"]
    if report.saving is not None:
        lines.append(f"{report.saving} is being written")
    if not report.checkpoints:
        return lines
    rows = [
        (
            row.name,
            row.stage,
            units.byte_size(row.size_bytes),
            _digest(row),
            _checked(row, report.time_ns),
            _marks(row),
        )
        for row in report.checkpoints[:_MAX_ROWS]
    ]
    head = ("checkpoint", "state", "size", "digest", "verified", "")
    lines += ["", *table(head, rows, right=(2,))]
    more = len(report.checkpoints) - _MAX_ROWS
    lines += [f"and {more} more"] if more > 0 else []
    refused = [
        row
        for row in report.checkpoints[:_MAX_ROWS]
        if row.why_not and row.stage != PRUNED
    ]
    reasons = [(f"{row.directory}", row.why_not or "") for row in refused[:10]]
    if reasons:
        lines += ["", "not resumable:"]
        for name, why in reasons:
            lines += fields([("", f"{name}: {why}")])
    return lines


def _digest(row: CheckpointReport) -> str:
    """Return enough of a digest to tell two checkpoints apart."""
    return row.digest.partition(":")[2][:8] if row.digest else units.MISSING


def _checked(row: CheckpointReport, now_ns: int) -> str:
    if row.stage == PRUNED:
        return units.MISSING
    if row.check is None:
        return "never"
    age = units.ago(max(0, now_ns - row.check.time_ns))
    return age if row.check.state == "sound" else f"{row.check.state}, {age}"


def _marks(row: CheckpointReport) -> str:
    marks = ["latest"] if row.is_latest else []
    marks += ["pinned"] if row.is_pinned else []
    if row.loaded_in:
        marks.append(f"loaded in attempt {row.loaded_in[-1]}")
    return ", ".join(marks)


def _checkpoint(row: CheckpointRow) -> CheckpointReport:
    check = row.check
    return CheckpointReport(
        name=row.name,
        directory=row.directory,
        stage=row.stage,
        number=row.number,
        size_bytes=row.size_bytes,
        digest=row.digest,
        created_ns=row.created_ns,
        attempt=row.attempt,
        reason=row.reason,
        is_resumable=row.is_resumable,
        why_not=row.why_not,
        check=CheckReport(*check) if check else None,
        serialize_ns=row.serialize_ns,
        write_ns=row.write_ns,
        digest_ns=row.digest_ns,
        fsync_ns=row.fsync_ns,
        publish_ns=row.publish_ns,
        verify_ns=row.verify_ns,
        loaded_in=row.loaded_in,
        is_pinned=row.is_pinned,
        is_latest=row.is_latest,
    )
