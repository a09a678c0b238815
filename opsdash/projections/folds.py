"""Every projection of a run but the list of events, fed batch by batch.

An event is offered only to the projections that read its kind. Of a thinned
past the steps have no counterpart on other ranks: nobody's lateness is told
from them.
"""

from collections.abc import Callable
from typing import Any

from agent.rundir import events as ev
from opsdash.projections.barriers import Barriers
from opsdash.projections.batch import Batch, Lines, Origin
from opsdash.projections.checkpoints import Checkpoints
from opsdash.projections.chunks import Chunks
from opsdash.projections.hangs import Hangs
from opsdash.projections.lateness import Lateness
from opsdash.projections.optimizer import Optimizer
from opsdash.projections.ranks import Ranks
from opsdash.projections.requests import Requests
from opsdash.projections.rounds import Rounds
from opsdash.projections.stacks import Stacks
from opsdash.projections.steps import Steps

_Fold = Callable[[Origin, Any], None]


class Folds:
    """What is known of a run from its events."""

    def __init__(self) -> None:
        self.steps = Steps()
        self.optimizer = Optimizer()
        self.ranks = Ranks()
        self.barriers = Barriers()
        self.hangs = Hangs()
        self.lateness = Lateness()
        self.checkpoints = Checkpoints()
        self.rounds = Rounds()
        self.chunks = Chunks()
        self.requests = Requests()
        self.stacks = Stacks()
        self.num_left_out = 0
        """Frequent events of a long past that were not read; their files have them."""
        self._folds = self._fold_table()
        self._thinned_folds = {**self._folds}
        self._thinned_folds[ev.StepDone] = self._thinned_step_folds()

    def take_directory(self, batch: Batch) -> None:
        """Take in what lies in the directory, and whose clocks the lines are from."""
        self.ranks.on_batch(batch)
        self.barriers.on_batch(batch)
        self.hangs.on_batch(batch)
        self.lateness.on_batch(batch)
        self.checkpoints.on_batch(batch)

    def take_lines(self, lines: Lines, now_ns: int) -> None:
        """Take in lines of one file; `now_ns` is the reader's wall clock, Unix ns."""
        self.ranks.on_lines(lines, now_ns)
        self.num_left_out += lines.num_left_out
        folds = self._thinned_folds if lines.is_thinned else self._folds
        for event in lines.events:
            for fold in folds.get(type(event), ()):
                fold(lines.origin, event)

    def replace_by(self, other: "Folds") -> None:
        """Go on from what another one knows; it is not to be used any more."""
        vars(self).update(vars(other))

    def _thinned_step_folds(self) -> tuple[_Fold, ...]:
        return (
            self.ranks.on_step,
            self.steps.on_step,
            self.barriers.on_step,
            self.hangs.on_step,
            self.lateness.on_thinned_step,
        )

    def _fold_table(self) -> dict[type[ev.Event], tuple[_Fold, ...]]:
        steps, optimizer, ranks = self.steps, self.optimizer, self.ranks
        barriers, hangs = self.barriers, self.hangs
        lateness, checkpoints = self.lateness, self.checkpoints
        rounds, chunks, requests = self.rounds, self.chunks, self.requests
        return {
            ev.RunStarted: (
                ranks.on_started,
                barriers.on_started,
                hangs.on_started,
                optimizer.on_started,
            ),
            ev.RunEnded: (ranks.on_ended, barriers.on_ended, hangs.on_ended),
            ev.Heartbeat: (
                ranks.on_heartbeat,
                barriers.on_heartbeat,
                hangs.on_heartbeat,
            ),
            ev.PhaseChanged: (ranks.on_phase,),
            ev.StepDone: (
                ranks.on_step,
                steps.on_step,
                barriers.on_step,
                hangs.on_step,
                lateness.on_step,
            ),
            ev.EvalDone: (steps.on_eval,),
            ev.HostStats: (ranks.on_host,),
            ev.EventsDropped: (ranks.on_dropped,),
            ev.StragglerNamed: (lateness.on_named,),
            ev.BarrierArrived: (barriers.on_arrived,),
            ev.BarrierReleased: (barriers.on_released,),
            ev.HangNamed: (hangs.on_named,),
            ev.CollectivesSampled: (hangs.on_sampled,),
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
            ev.OptimizerNorms: (optimizer.on_norms, steps.on_norms),
            ev.OptimizerReset: (optimizer.on_reset, rounds.on_reset),
            ev.NonfiniteFound: (optimizer.on_nonfinite,),
            ev.RoundStarted: (rounds.on_started,),
            ev.RoundCommitted: (rounds.on_committed,),
            ev.RoundAbandoned: (rounds.on_abandoned,),
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
            ev.StacksWritten: (self.stacks.on_written,),
        }
