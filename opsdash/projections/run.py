"""Everything that is known of one run: all projections, fed by one `fold`.

Not thread-safe: whoever drains the feed folds, and asks for views in between.
An event is offered only to the projections that read its kind.
"""

from collections.abc import Callable
from typing import Any

from agent.rundir import events as ev
from opsdash.projections.barriers import Barriers, BoardRow
from opsdash.projections.batch import Batch, Directory, Origin
from opsdash.projections.checkpoints import Checkpoints
from opsdash.projections.chunks import Chunks
from opsdash.projections.events_log import EventsLog
from opsdash.projections.lateness import Lateness
from opsdash.projections.optimizer import Optimizer
from opsdash.projections.ranks import RankRow, Ranks
from opsdash.projections.reasons import all_reasons
from opsdash.projections.requests import Requests
from opsdash.projections.rounds import Rounds
from opsdash.projections.run_state import Evidence, Verdict, judge
from opsdash.projections.steps import Steps
from opsdash.projections.time_order import TimeOrder

_Fold = Callable[[Origin, Any], None]


class Run:
    """The folded state of one run directory."""

    def __init__(self) -> None:
        self.steps = Steps()
        self.optimizer = Optimizer()
        self.ranks = Ranks()
        self.barriers = Barriers()
        self.lateness = Lateness()
        self.checkpoints = Checkpoints()
        self.rounds = Rounds()
        self.chunks = Chunks()
        self.requests = Requests()
        self.events = EventsLog()
        self._order = TimeOrder()
        self.num_batches = 0
        self._batch: Batch | None = None
        self._attached_mono_ns = 0
        self._folds = self._fold_table()
        self._on_batch = (
            self.ranks.on_batch,
            self.barriers.on_batch,
            self.lateness.on_batch,
            self.checkpoints.on_batch,
            self.events.on_batch,
        )

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
        for projection in self._on_batch:
            projection(batch)
        for lines in batch.lines:
            self.ranks.on_lines(lines, batch.now_ns)
            for event in lines.events:
                for fold in self._folds.get(type(event), ()):
                    fold(lines.origin, event)
        for lines in self._order.take(batch):
            self.events.on_lines(lines)

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
            step=self.rounds.last_committed if is_federated else self.steps.step,
            step_ns=self.rounds.typical_ns if is_federated else self.typical_step_ns,
            open_round=self.rounds.current if is_federated else None,
            nonfinite=self.steps.recent_nonfinite(),
            disk_free_bytes=self._disk_free_bytes(),
            absent=tuple(c for c in self.rounds.clients() if not c.is_present),
            num_undecodable=self.events.num_undecodable + self.events.num_overlong,
            num_newer=self.events.num_newer,
            num_hidden=self.ranks.num_hidden,
        )

    @property
    def typical_step_ns(self) -> int | None:
        """Median length of the last steps."""
        return self.steps.typical_step_ns

    def rank_rows(self, now_mono_ns: int) -> list[RankRow]:
        """Return the processes of the newest attempt."""
        return self.ranks.rows(now_mono_ns)

    def board(self, now_mono_ns: int) -> list[BoardRow]:
        """Return who waits at which barrier now."""
        return self.barriers.board(
            lambda stem, then: self.ranks.age_ns(stem, then, now_mono_ns),
            self.ranks.world_size,
        )

    def _disk_free_bytes(self) -> int | None:
        seen = [self.directory.disk_free_bytes, self.ranks.disk_free_bytes()]
        return min((size for size in seen if size is not None), default=None)

    def _fold_table(self) -> dict[type[ev.Event], tuple[_Fold, ...]]:
        steps, optimizer, ranks = self.steps, self.optimizer, self.ranks
        barriers, lateness, checkpoints = self.barriers, self.lateness, self.checkpoints
        rounds, chunks, requests = self.rounds, self.chunks, self.requests
        return {
            ev.RunStarted: (ranks.on_started, optimizer.on_started),
            ev.RunEnded: (ranks.on_ended, barriers.on_ended),
            ev.Heartbeat: (ranks.on_heartbeat, barriers.on_heartbeat),
            ev.PhaseChanged: (ranks.on_phase,),
            ev.StepDone: (
                ranks.on_step,
                steps.on_step,
                barriers.on_step,
                lateness.on_step,
            ),
            ev.EvalDone: (steps.on_eval,),
            ev.HostStats: (ranks.on_host,),
            ev.EventsDropped: (ranks.on_dropped,),
            ev.StragglerNamed: (lateness.on_named,),
            ev.BarrierArrived: (barriers.on_arrived,),
            ev.BarrierReleased: (barriers.on_released,),
            ev.CheckpointSaving: (checkpoints.on_saving,),
            ev.CheckpointPublished: (checkpoints.on_published,),
            ev.CheckpointVerified: (checkpoints.on_verified,),
            ev.CheckpointLoaded: (
                checkpoints.on_loaded,
                steps.on_loaded,
                optimizer.on_loaded,
            ),
            ev.CheckpointRefused: (checkpoints.on_refused,),
            ev.CheckpointPruned: (checkpoints.on_pruned,),
            ev.OptimizerNorms: (optimizer.on_norms,),
            ev.OptimizerReset: (optimizer.on_reset, rounds.on_reset),
            ev.NonfiniteFound: (optimizer.on_nonfinite,),
            ev.RoundStarted: (rounds.on_started,),
            ev.RoundCommitted: (rounds.on_committed,),
            ev.ClientJoined: (rounds.on_joined,),
            ev.ClientLost: (rounds.on_lost,),
            ev.ClientUpdate: (rounds.on_update,),
            ev.UpdateRefused: (rounds.on_refused,),
            ev.StoreStats: (chunks.on_stats,),
            ev.ChunkDamaged: (chunks.on_damaged,),
            ev.ChunkRepaired: (chunks.on_repaired,),
            ev.RequestSeen: (requests.on_seen,),
            ev.RequestAcked: (requests.on_acked,),
            ev.RequestDone: (requests.on_done,),
        }
