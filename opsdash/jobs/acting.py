"""What an operator does to a run: plan it, show the plan, do it, follow it.

Nothing is done before its plan was shown and confirmed. A live run is asked; a
dead one is started again, or mended by the trainer's own commands.
"""

from collections.abc import Callable
from typing import Any, Protocol

from textual.screen import Screen

from agent.rundir.checkpoints import newest_resumable
from agent.rundir.errors import RunDirError
from agent.rundir.verify.verdict import Level
from opsdash import messages
from opsdash.jobs.asking import Asking
from opsdash.jobs.attached import Attached
from opsdash.jobs.beginning import Became, Beginning
from opsdash.jobs.board import Job
from opsdash.jobs.command import (
    CommandJob,
    Summary,
    say_nothing,
    say_repaired,
    say_restored,
)
from opsdash.jobs.errand import Found
from opsdash.jobs.exporting import ExportJob
from opsdash.jobs.planning import Planning, ResumePlanning
from opsdash.jobs.resuming import Resuming
from opsdash.jobs.verification import Verification
from opsdash.operations.compare import Comparison, compare_checkpoints, plan_measure
from opsdash.operations.plan import Plan
from opsdash.operations.request_plans import plan_request
from opsdash.operations.requests import ask
from opsdash.operations.standing import running, why_deaf
from opsdash.operations.start import start_resume
from opsdash.operations.store_plans import plan_pin, plan_repair, plan_restore
from opsdash.operations.targets import Target
from opsdash.operations.trainer_command import TrainerCommand
from opsdash.screens.comparison import ComparisonScreen


class _NoRollbackError(RunDirError):
    """A federation has no checkpoint to go back to while it runs."""


class Desk(Protocol):
    """Where plans are shown and troubles told: the app."""

    def ask_to_confirm(self, plan: Plan, act: Callable[[], None]) -> None:
        """Show a plan; call `act` if the operator confirms it."""

    def show_screen(self, screen: Screen[None]) -> None:
        """Show something over the run."""

    def tell_trouble(self, error: RunDirError) -> None:
        """Say why something cannot be done."""


class Acting:
    """Everything that can be done to the attached run."""

    def __init__(self, attached: Attached, desk: Desk) -> None:
        self._attached = attached
        self._run = attached.run
        self._jobs = attached.jobs
        self._log = attached.log
        self._desk = desk

    def grant(self, wish: messages.Wish) -> None:
        """Do what a pane asks for, or show the plan of it first."""
        match wish:
            case messages.VerifyRequested():
                level = Level.DEEP if wish.is_deep else Level.CONTENT
                self.verify(wish.names, level)
            case messages.StoreVerifyRequested():
                self.verify_stores(wish.nodes)
            case messages.ResumeRequested():
                self.resume(wish.name)
            case messages.PinRequested():
                self.pin(wish.name, is_pinned=wish.is_pinned)
            case messages.RepairRequested():
                self.repair(wish.node)
            case messages.RestoreRequested():
                self.restore(wish)
            case messages.RunRequested():
                self.request(wish.kind, wish.args)
            case messages.CompareRequested():
                self.compare(wish.old, wish.new)
            case messages.ExportRequested():
                self.export(wish)

    def verify(self, names: tuple[str, ...], level: Level = Level.CONTENT) -> None:
        """Read checkpoints again: a pure read needs no plan."""
        targets = [Target(self._run.checkpoints / name, name) for name in names]
        self._jobs.add(Verification(tuple(targets), self._log, level))

    def verify_stores(self, nodes: tuple[str, ...]) -> None:
        """Read chunk stores again."""
        targets = [
            Target(self._run.chunk_store(node), f"chunks/{node}", is_store=True)
            for node in nodes
        ]
        reading = Verification(tuple(targets), self._log)

        def keep() -> bool:
            self._attached.store_verdicts.update(reading.job.verdicts)
            return False

        self._jobs.add(reading, keep)

    def request(self, kind: str, args: dict[str, Any] | None = None) -> None:
        """Plan a request to the running trainer, and make it if confirmed."""
        wanted = args or {}
        standing = self._attached.standing()
        self._look_up(
            f"plan {kind}",
            lambda: plan_request(self._run, kind, wanted, standing),
            lambda plan: self._desk.ask_to_confirm(
                plan, lambda: self._ask(plan, wanted)
            ),
        )

    def pause_or_continue(self) -> None:
        """Ask for the one that makes sense now."""
        self.request("continue" if self._attached.is_paused else "pause")

    def resume(self, name: str | None) -> None:
        """Go back while it runs, or start it again where it is dead."""
        self._where_it_runs(lambda is_live: self._resume(name, is_live=is_live))

    def pin(self, name: str, *, is_pinned: bool) -> None:
        """Keep a checkpoint from retention, or let it have it again."""

        def go_on(is_live: bool) -> None:  # noqa: FBT001 - the one thing that was asked
            if is_live:
                kind = "pin" if is_pinned else "unpin"
                self.request(kind, {"checkpoint": name})
            else:
                self._command(
                    lambda: plan_pin(self._run, name, is_pinned=is_pinned), say_nothing
                )

        self._where_it_runs(go_on)

    def repair(self, node: str) -> None:
        """Mend a store: by the trainer that owns it, or where nobody runs, here."""

        def is_heard() -> bool:
            is_live = running(self._run) is not None
            return is_live and why_deaf(self._run, "repair") is None

        def go_on(is_heard: bool) -> None:  # noqa: FBT001 - the one thing that was asked
            if is_heard:
                self.request("repair", {"node": node})
            else:
                self._command(lambda: plan_repair(self._run, node), say_repaired)

        self._look_up("look who runs", is_heard, go_on)

    def restore(self, wish: messages.RestoreRequested) -> None:
        """Put a round into a file, or into the running federation."""
        to = wish.to
        if to is None:
            args = {"node": wish.node, "round_num": wish.round_num}
            more = {"tensors": wish.tensors, "mapping": wish.mapping}
            given = {name: value for name, value in more.items() if value}
            self.request("restore", {**args, **given})
            return
        self._command(
            lambda: plan_restore(
                self._run, wish.node, wish.round_num, to, wish.tensors, wish.mapping
            ),
            say_restored,
        )

    def compare(self, old: str, new: str) -> None:
        """Show what differs between two checkpoints: a pure read needs no plan."""
        plan = plan_measure(self._run, old, new)

        def show(compared: Comparison) -> None:
            self._begin(
                plan,
                lambda: CommandJob(TrainerCommand(plan), say_nothing),
                lambda job: self._desk.show_screen(
                    ComparisonScreen(compared, job.command)
                ),
            )

        self._look_up(
            plan.title,
            lambda: compare_checkpoints(self._run, old, new),
            show,
        )

    def export(self, wish: messages.ExportRequested) -> None:
        """Write events to a file of the operator's, beside the run."""
        try:
            self._jobs.add(ExportJob(wish.path, wish.numbers, wish.row_of, wish.told))
        except RunDirError as error:
            self._desk.tell_trouble(error)

    def _ask(self, plan: Plan, args: dict[str, Any]) -> None:
        num_processes = self._attached.standing().num_processes

        def begin() -> Job:
            asked = ask(self._run, plan, args, self._log)
            told = self._attached.folded.requests
            return Asking(asked, lambda: told.get(asked.request), num_processes)

        self._begin_job(plan, begin)

    def _resume(self, name: str | None, *, is_live: bool) -> None:
        if is_live and self._attached.folded.kind == "federated" and not name:
            self._desk.tell_trouble(
                _NoRollbackError(
                    "a federation that runs goes back by restoring a round",
                    hint="5 shows the stores: enter opens a round, R restores it",
                )
            )
            return
        if is_live:
            # By name: what is newest may be another one when the plan was read.
            self._look_up(
                "plan resume",
                lambda: name or newest_resumable(self._run).name,
                lambda chosen: self.request("resume", {"checkpoint": chosen}),
            )
            return
        loss = self._attached.standing().loss
        planning = ResumePlanning(self._run, name, loss, self._resume_if_confirmed)
        self._jobs.add(planning, planning.finish)

    def _where_it_runs(self, then: Callable[[bool], None]) -> None:
        """Go on with whether somebody runs, or may run on another host."""
        self._look_up("look who runs", lambda: running(self._run) is not None, then)

    def _look_up(
        self, title: str, look: Callable[[], Found], then: Callable[[Found], None]
    ) -> None:
        """Read beside the screen, and go on when it was read."""
        planning = Planning(title, look, then, self._desk.tell_trouble)
        if planning.wait():
            planning.finish()
        else:
            self._jobs.add(planning, planning.finish)

    def _command(self, make: Callable[[], Plan], say: Summary) -> None:
        def show(plan: Plan) -> None:
            def begin() -> Job:
                return CommandJob(TrainerCommand(plan, self._log), say)

            self._desk.ask_to_confirm(plan, lambda: self._begin_job(plan, begin))

        self._look_up("plan it", make, show)

    def _resume_if_confirmed(self, plan: Plan) -> None:
        def begin() -> Job:
            return Resuming(start_resume(self._run, plan, self._log), plan.title)

        self._desk.ask_to_confirm(
            plan, lambda: self._begin(plan, begin, self._jobs.add, can_cancel=False)
        )

    def _begin_job(self, plan: Plan, begin: Callable[[], Job]) -> None:
        """Set going what was confirmed, and follow it."""
        self._begin(plan, begin, self._jobs.add)

    def _begin(
        self,
        plan: Plan,
        begin: Callable[[], Became],
        then: Callable[[Became], None],
        *,
        can_cancel: bool = True,
    ) -> None:
        """Set something going beside the screen; why it failed stays on its line."""
        beginning = Beginning(plan.title, begin, then, can_cancel=can_cancel)
        if not (beginning.wait() and beginning.finish()):
            self._jobs.add(beginning, beginning.finish)
