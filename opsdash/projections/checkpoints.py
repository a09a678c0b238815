"""The checkpoints of a run: where each is in its life, and whether it resumes.

What lies on disk decides; events add what the disk does not tell: how long a
save took, who loaded what, what retention removed. A verification by an
operator counts like the trainer's own where it is newer and of the same bytes.
"""

from dataclasses import dataclass
from typing import NamedTuple

from agent.rundir.checkpoints import Stage
from agent.rundir.events import (
    CheckpointLoaded,
    CheckpointPruned,
    CheckpointPublished,
    CheckpointRefused,
    CheckpointSaving,
    CheckpointVerified,
)
from agent.rundir.layout import parse_checkpoint_name
from agent.rundir.operations import Operation
from opsdash.projections.batch import Batch, CheckpointFact, Directory, Origin
from opsdash.projections.plausible import clip, nanoseconds, whole

DAMAGED_STATES = frozenset({"damaged", "truncated", "changed_since_save"})
_MAX_NOTES = 4_096
PRUNED = "pruned"


class Check(NamedTuple):
    """The newest verification of a checkpoint's present bytes."""

    state: str
    level: str
    by: str
    time_ns: int
    """Wall clock, Unix ns."""
    text: str = ""


@dataclass(frozen=True, slots=True)
class CheckpointRow:
    """One checkpoint."""

    name: str
    directory: str
    """Its name on disk; of one that is gone, the name it had."""
    stage: str
    """`writing`, `published`, `verified`, `damaged`, `quarantined`, `superseded`,
    `foreign`, or `pruned`."""
    number: int
    """Step or round; -1 where the name tells none."""
    size_bytes: int | None
    digest: str | None
    created_ns: int | None
    """Wall clock, Unix ns."""
    attempt: int | None
    reason: str | None
    """Why it was saved: `interval`, `final`, `request`, `signal`."""
    check: Check | None
    serialize_ns: int | None
    write_ns: int | None
    digest_ns: int | None
    fsync_ns: int | None
    publish_ns: int | None
    verify_ns: int | None
    loaded_in: tuple[int, ...]
    """Attempts that resumed from it."""
    is_pinned: bool
    is_latest: bool
    why_not: str | None
    """Why it cannot be resumed from; None: it can."""

    @property
    def is_resumable(self) -> bool:
        """Whether it may be resumed from without being named."""
        return self.why_not is None

    @property
    def save_phases(self) -> tuple[tuple[str, int | None], ...]:
        """What a save does, one after the other; None: untold."""
        return (
            ("serialize", self.serialize_ns),
            ("write", self.write_ns),
            ("digest", self.digest_ns),
            ("fsync", self.fsync_ns),
            ("publish", self.publish_ns),
        )

    @property
    def save_ns(self) -> int | None:
        """How long training waited for it to be on the disk; None: untold."""
        known = [ns for _, ns in self.save_phases if ns is not None]
        return sum(known) if known else None

    @property
    def is_published(self) -> bool:
        """Whether it carries its final name and was not set aside."""
        return self.stage in (Stage.PUBLISHED, Stage.VERIFIED, Stage.DAMAGED)


@dataclass
class _Note:
    """What events told of one name."""

    digest: str | None = None
    attempt: int | None = None
    size_bytes: int | None = None
    time_ns: int | None = None
    serialize_ns: int | None = None
    write_ns: int | None = None
    digest_ns: int | None = None
    fsync_ns: int | None = None
    publish_ns: int | None = None
    verify_ns: int | None = None
    reason: str | None = None
    check: Check | None = None
    is_pruned: bool = False
    loaded_in: tuple[int, ...] = ()


class Refusal(NamedTuple):
    """A checkpoint that was not saved, or not loaded."""

    attempt: int
    step: int | None
    checkpoint: str
    reason: str


class Checkpoints:
    """Folds the directory and the events of `checkpoints/`."""

    def __init__(self) -> None:
        self.last_refusal: Refusal | None = None
        self.saving: str | None = None
        """Name of the checkpoint being written; None: none that was told."""
        self._notes: dict[str, _Note] = {}
        self._directory: Directory | None = None
        self._rows: list[CheckpointRow] | None = None

    def on_batch(self, batch: Batch) -> None:
        """Take in what lies on disk."""
        before, now = self._directory, batch.directory
        if before is None or (
            now.checkpoints is not before.checkpoints
            or now.operations is not before.operations
            or now.latest != before.latest
        ):
            self._rows = None
        self._directory = now

    def on_saving(self, origin: Origin, event: CheckpointSaving) -> None:
        """Take in that a save began."""
        self.saving = clip(event.checkpoint, 80)
        if note := self._note(event.checkpoint):
            note.reason, note.attempt = clip(event.reason, 40), origin.attempt
            note.check, note.is_pruned = None, False

    def on_published(self, origin: Origin, event: CheckpointPublished) -> None:
        """Take in that a checkpoint has its final name."""
        self.saving = None
        if note := self._note(event.checkpoint):
            note.digest, note.attempt = clip(event.digest, 100), origin.attempt
            note.size_bytes, note.time_ns = whole(event.size_bytes), event.time_ns
            note.serialize_ns = nanoseconds(event.serialize_ns)
            note.write_ns = nanoseconds(event.write_ns)
            note.digest_ns = nanoseconds(event.digest_ns)
            note.fsync_ns = nanoseconds(event.fsync_ns)
            note.publish_ns = nanoseconds(event.publish_ns)
            note.is_pruned = False

    def on_verified(self, origin: Origin, event: CheckpointVerified) -> None:  # noqa: ARG002 - one signature for all folds
        """Take in what was found, which the disk tells no more once it is pruned."""
        if note := self._note(event.checkpoint):
            state, level = clip(event.state, 40), clip(event.level, 40)
            note.check = Check(state, level, clip(event.by, 60), event.time_ns)
            if event.by == "save":
                note.verify_ns = nanoseconds(event.verify_ns)

    def on_loaded(self, origin: Origin, event: CheckpointLoaded) -> None:
        """Take in that an attempt resumed from a checkpoint."""
        note = self._note(event.checkpoint)
        if note and origin.attempt not in note.loaded_in:
            note.loaded_in = (*note.loaded_in[-15:], origin.attempt)

    def on_refused(self, origin: Origin, event: CheckpointRefused) -> None:
        """Take in that a checkpoint was not saved, or not loaded."""
        self.saving = None
        self.last_refusal = Refusal(
            origin.attempt,
            whole(event.step),
            clip(event.checkpoint, 80),
            clip(event.reason),
        )

    def on_pruned(self, origin: Origin, event: CheckpointPruned) -> None:  # noqa: ARG002 - one signature for all folds
        """Take in that retention removed a checkpoint."""
        if note := self._note(event.checkpoint):
            note.is_pruned = True
            note.size_bytes = whole(event.freed_bytes)

    def rows(self) -> list[CheckpointRow]:
        """Return all checkpoints, newest first, those set aside after their step."""
        if self._rows is None:
            facts = self._directory.checkpoints if self._directory else ()
            there = [self._row(fact) for fact in facts]
            self._rows = sorted(there + self._gone(facts), key=_row_order)
        return self._rows

    def newest(self) -> CheckpointRow | None:
        """Return the published checkpoint of the greatest step."""
        return next((row for row in self.rows() if row.is_published), None)

    def last_verified(self) -> CheckpointRow | None:
        """Return the checkpoint that a resume would take."""
        return next((row for row in self.rows() if row.is_resumable), None)

    def damaged(self) -> tuple[CheckpointRow, ...]:
        """Return those that are there and do not hold, newest first."""
        return tuple(row for row in self.rows() if row.stage == Stage.DAMAGED)

    def _note(self, name: str) -> _Note | None:
        self._rows = None
        name = clip(name, 80)
        if name not in self._notes and len(self._notes) >= _MAX_NOTES:
            del self._notes[next(iter(self._notes))]
        return self._notes.setdefault(name, _Note())

    def _row(self, fact: CheckpointFact) -> CheckpointRow:
        note = self._notes.get(fact.name, _Note())
        if note.digest is not None and note.digest != fact.digest:
            note = _Note(loaded_in=note.loaded_in)
        check = self._check(fact)
        stage, why_not = _judged(fact, check)
        latest = self._directory.latest if self._directory else None
        return CheckpointRow(
            name=fact.name,
            directory=fact.directory,
            stage=str(stage),
            number=fact.number,
            size_bytes=fact.size_bytes,
            digest=fact.digest,
            created_ns=fact.created_ns,
            attempt=fact.attempt,
            reason=fact.reason,
            check=check,
            serialize_ns=note.serialize_ns,
            write_ns=note.write_ns,
            digest_ns=note.digest_ns,
            fsync_ns=note.fsync_ns,
            publish_ns=note.publish_ns,
            verify_ns=note.verify_ns,
            loaded_in=note.loaded_in,
            is_pinned=fact.is_pinned,
            is_latest=fact.directory == latest,
            why_not=why_not,
        )

    def _check(self, fact: CheckpointFact) -> Check | None:
        """Return the newest verification of these bytes, whoever made it."""
        found: Check | None = None
        if fact.verification is not None:
            v = fact.verification
            found = Check(v.state, v.level, clip(v.by, 60), v.time_ns)
        return self._newest_check(found, fact.name, fact.digest)

    def _newest_check(
        self, found: Check | None, name: str, digest: str | None
    ) -> Check | None:
        """Return what a dashboard found of these bytes where that is newer."""
        for operation in self._directory.operations if self._directory else ():
            if not _is_check_of(operation, name, digest):
                continue
            if found is None or operation.time_ns > found.time_ns:
                found = Check(
                    operation.state or "",
                    operation.level or "",
                    clip(operation.by, 60),
                    operation.time_ns,
                    clip(operation.text),
                )
        return found

    def _gone(self, facts: tuple[CheckpointFact, ...]) -> list[CheckpointRow]:
        there = {fact.name for fact in facts if not fact.directory.startswith(".")}
        return [
            _pruned_row(name, note, self._newest_check(note.check, name, note.digest))
            for name, note in self._notes.items()
            if note.is_pruned and name not in there
        ]


def _is_check_of(operation: Operation, name: str, digest: str | None) -> bool:
    return (
        operation.kind == "verify"
        and operation.stage == "done"
        and operation.state is not None
        and operation.subject == name
        and operation.digest == digest
    )


def _judged(
    fact: CheckpointFact, check: Check | None
) -> tuple[Stage | str, str | None]:
    """Return stage and reason with the newest verification taken in."""
    if check is None or fact.stage not in (
        Stage.PUBLISHED,
        Stage.VERIFIED,
        Stage.DAMAGED,
    ):
        return fact.stage, fact.why_not
    if check.state in DAMAGED_STATES:
        found = f": {check.text}" if check.text else ""
        return Stage.DAMAGED, f"{check.by} found it {check.state}{found}"
    was_told_damaged = (
        fact.verification is not None and fact.verification.state in DAMAGED_STATES
    )
    is_read_whole = check.state == "sound" and check.level != "structure"
    if is_read_whole and (fact.stage is Stage.PUBLISHED or was_told_damaged):
        return Stage.VERIFIED, None
    return fact.stage, fact.why_not


def _pruned_row(name: str, note: _Note, check: Check | None) -> CheckpointRow:
    parsed = parse_checkpoint_name(name)
    return CheckpointRow(
        name=name,
        directory=name,
        stage=PRUNED,
        number=min(parsed.number, 2**53) if parsed else -1,
        size_bytes=note.size_bytes,
        digest=note.digest,
        created_ns=note.time_ns,
        attempt=note.attempt,
        reason=note.reason,
        check=check,
        serialize_ns=note.serialize_ns,
        write_ns=note.write_ns,
        digest_ns=note.digest_ns,
        fsync_ns=note.fsync_ns,
        publish_ns=note.publish_ns,
        verify_ns=note.verify_ns,
        loaded_in=note.loaded_in,
        is_pinned=False,
        is_latest=False,
        why_not="retention removed it",
    )


def _row_order(row: CheckpointRow) -> tuple[int, bool, str]:
    return -row.number, not row.is_published, row.directory
