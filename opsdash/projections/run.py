"""Everything that is known of one run: all projections, fed by one `fold`.

Not thread-safe: whoever drains the feed folds, and asks for views in between.
While a long past is read the newest lines are shown, folded apart; what was
folded in its order takes their place when everything is read.
"""

from opsdash.projections.barriers import AgeOf, BoardRow
from opsdash.projections.batch import Batch, Directory
from opsdash.projections.events_log import EventsLog
from opsdash.projections.folds import Folds
from opsdash.projections.hangs import InCollective
from opsdash.projections.ranks import RankRow
from opsdash.projections.reasons import all_reasons
from opsdash.projections.run_state import Evidence, Verdict, judge
from opsdash.projections.time_order import TimeOrder


class Run(Folds):
    """The folded state of one run directory."""

    def __init__(self) -> None:
        super().__init__()
        self.events = EventsLog()
        self.num_batches = 0
        self._order = TimeOrder()
        self._behind: Folds | None = None
        """Everything in its order, while a preview is shown."""
        self._batch: Batch | None = None
        self._attached_mono_ns = 0

    @property
    def directory(self) -> Directory:
        """What lay in the run directory at the last pass."""
        return self._batch.directory if self._batch else Directory()

    @property
    def kind(self) -> str | None:
        """`ddp` or `federated`; None while the run is unknown."""
        identity = self.directory.identity
        return identity.kind if identity else None

    @property
    def is_caught_up(self) -> bool:
        """Whether everything that is on disk was read."""
        return self._batch is not None and self._batch.backlog_bytes == 0

    @property
    def read_frac(self) -> float:
        """Share of the known telemetry that was read."""
        if self._batch is None:
            return 0.0
        total = self._batch.read_bytes + self._batch.backlog_bytes
        return self._batch.read_bytes / total if total else 1.0

    @property
    def is_polling(self) -> bool:
        """Whether the file system tells of no changes."""
        return self._batch is not None and self._batch.is_polling

    def fold(self, batch: Batch) -> None:
        """Take in one pass over the run directory."""
        if self._batch is None:
            self._attached_mono_ns = batch.now_mono_ns
        self._batch = batch
        self.num_batches += 1
        self.events.on_batch(batch)
        self.take_directory(batch)
        if batch.is_preview:
            self._behind = self._behind or Folds()
            self._take_all(self, batch)
            return
        self._take_all(self._behind or self, batch)
        for span in self._order.take(batch):
            self.events.on_lines(*span)
        if self._behind is not None and self.is_caught_up:
            self.replace_by(self._behind)
            self._behind = None

    def _take_all(self, folds: Folds, batch: Batch) -> None:
        if folds is not self:
            folds.take_directory(batch)
        for lines in batch.lines:
            folds.take_lines(lines, batch.now_ns)

    def verdict(self, now_mono_ns: int, now_ns: int) -> Verdict:
        """Return the state of the run.

        Args:
            now_mono_ns: The clock that made the batches, monotonic.
            now_ns: Wall clock, Unix ns, for ages of what has only a wall time.
        """
        evidence = self.evidence(now_mono_ns, now_ns)
        return judge(evidence, all_reasons(evidence))

    def evidence(self, now_mono_ns: int, now_ns: int) -> Evidence:
        """Return what a verdict is made from."""
        is_federated = self.kind == "federated"
        return Evidence(
            now_mono_ns=now_mono_ns,
            now_ns=now_ns,
            attached_mono_ns=self._attached_mono_ns,
            batch=self._batch or Batch(now_mono_ns, now_ns, Directory()),
            ranks=tuple(self.rank_rows(now_mono_ns)),
            world_size=None if is_federated else self.ranks.world_size,
            board=tuple(self.board(now_mono_ns)),
            straggler=self.lateness.straggler(),
            newest=self.checkpoints.newest(),
            last_verified=self.checkpoints.last_verified(),
            damaged=self.checkpoints.damaged(),
            step=self.rounds.last_committed if is_federated else self.steps.step,
            step_ns=self.rounds.typical_ns if is_federated else self.typical_step_ns,
            is_paused=self.requests.is_paused(self.directory.newest_attempt),
            open_round=self.rounds.current if is_federated else None,
            nonfinite=self.steps.recent_nonfinite(),
            disk_free_bytes=self._disk_free_bytes(),
            absent=tuple(c for c in self.rounds.clients() if not c.is_present),
            num_undecodable=self.events.num_undecodable + self.events.num_overlong,
            num_newer=self.events.num_newer,
            num_hidden=self.ranks.num_hidden,
        )

    def is_paused(self, now_mono_ns: int) -> bool:
        """Whether the trainer says that it stands still because it was asked to."""
        if any(row.phase == "paused" for row in self.rank_rows(now_mono_ns)):
            return True
        return self.requests.is_paused(self.directory.newest_attempt)

    @property
    def typical_step_ns(self) -> int | None:
        """Median length of the last steps."""
        return self.steps.typical_step_ns

    def rank_rows(self, now_mono_ns: int) -> list[RankRow]:
        """Return the processes of the newest attempt."""
        return self.ranks.rows(now_mono_ns)

    def board(self, now_mono_ns: int) -> list[BoardRow]:
        """Return who waits at which barrier, or in which collective, longest first."""
        age_of, world_size = self._age_of(now_mono_ns), self.ranks.world_size
        barriers = self.barriers.board(age_of, world_size)
        hanging = self.hangs.rows(age_of, world_size)
        return sorted([*barriers, *hanging], key=lambda row: (-row.waited_ns, row.name))

    def standing(self, stem: str, now_mono_ns: int) -> InCollective | None:
        """Return the collective that a process stands in; None: nobody told."""
        return self.hangs.standing(stem, self._age_of(now_mono_ns))

    def _age_of(self, now_mono_ns: int) -> AgeOf:
        return lambda stem, then: self.ranks.age_ns(stem, then, now_mono_ns)

    def _disk_free_bytes(self) -> int | None:
        seen = [self.directory.disk_free_bytes, self.ranks.disk_free_bytes()]
        return min((size for size in seen if size is not None), default=None)
