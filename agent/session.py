"""The one object that a trainer embeds: `with Agent.attach(run_dir) as agent:`.

Attaching may be refused, because two trainers must not share a directory.
After that nothing here raises into training: what cannot be done is counted
and told. The agent issues no collective; a second thread beats once a second
so that a stuck trainer is seen to be stuck.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from agent.emitter import Emitter
from agent.probes.activity import Activity, limit_in_ns
from agent.probes.background import Background
from agent.probes.barrier import BarrierProbe
from agent.probes.hang import DEFAULT_LIMIT_S
from agent.probes.inbox import Inbox
from agent.probes.nonfinite import first_nonfinite
from agent.probes.obeying import Obedience
from agent.probes.optimizers import Optimizers
from agent.probes.pending import PendingRequest
from agent.probes.place import Place, refuse_unsafe
from agent.probes.wording import as_name, as_step, in_words
from agent.rundir.events import (
    EvalDone,
    Event,
    NonfiniteFound,
    PhaseChanged,
    RunEnded,
    StepDone,
)
from agent.rundir.joining import wait_for_attempt
from agent.rundir.layout import RunDir
from agent.start import RunStart, begin_run, launch_id_from_environment

if TYPE_CHECKING:
    from torch import Tensor
    from torch.optim import Optimizer

HEARTBEAT_S = 1.0
_ATTEMPT_WAIT_S = 150.0
"""A client of NFS may look a minute long at what is not there any more, twice."""


class Agent:
    """Telemetry of one process. Made by `attach`, ended by its `with` block."""

    def __init__(
        self, emitter: Emitter, start: RunStart | None, inbox: Inbox | None = None
    ) -> None:
        """Wrap an open emitter; `attach` is the way to get an agent."""
        self.emitter = emitter
        self.barriers = BarrierProbe(emitter)
        self._start = start
        self._activity = Activity()
        self._optimizers = Optimizers(emitter)
        self._obedience = Obedience(emitter, inbox)
        self._pid = os.getpid()
        self._has_ended = False
        self._told_busy_ns = 0
        self._background: Background | None = None

    @classmethod
    def attach(  # noqa: PLR0913 - each is a fact that only the trainer knows
        cls,
        run_dir: str | Path,
        *,
        kind: str = "ddp",
        rank: int | None = None,
        world_size: int | None = None,
        attempt: int | None = None,
        node: str | None = None,
        resume_command: list[str] | None = None,
        config: dict[str, Any] | None = None,
        heartbeat_s: float = HEARTBEAT_S,
        hang_limit_s: float = DEFAULT_LIMIT_S,
    ) -> Self:
        """Open this process's telemetry.

        Args:
            run_dir: The run's directory, the same for all ranks.
            kind: `ddp` or `federated`.
            rank: None: from `RANK`, else 0. Clients of a federated run give -1.
            world_size: None: from `WORLD_SIZE`, else 1.
            attempt: The number that rank 0 got from `begin_run`. None: rank 0
                begins the run here, and the others find its attempt on disk.
            node: A client's key, or `server`; None: `rank-<rank>`.
            resume_command: What starts this run again; `{checkpoint}` in it
                stands for a checkpoint's name. None: a dashboard will say so.
            config: What must not change between two starts of the run.
            heartbeat_s: Seconds between two beats.
            hang_limit_s: How long a wait or a step may take that has no limit
                of its own, before it is named as a hang; never less than ten
                ordinary steps.

        Raises:
            LockedError: another trainer runs on this directory.
            RunDirError: the directory is something else, or another
                configuration's run.
        """
        if os.environ.get("OPSDASH_AGENT", "").lower() == "off":
            return cls(Emitter(None, node="off", rank=None), None)
        refuse_unsafe(node)
        run = RunDir(Path(run_dir).absolute())
        rank = int(os.environ.get("RANK", "0")) if rank is None else rank
        if world_size is None:
            world_size = int(os.environ.get("WORLD_SIZE", "1"))
        launch_id, start = launch_id_from_environment(), None
        if attempt is None and rank == 0:
            start = begin_run(run.path, kind=kind, config=config, launch_id=launch_id)
        elif attempt is None:
            attempt = wait_for_attempt(
                run, launch_id, rank=rank, timeout_s=_ATTEMPT_WAIT_S
            )
        try:
            if start is not None:
                start.record(resume_command=resume_command, world_size=world_size)
                attempt = start.attempt
            assert attempt is not None
            place = Place(run, kind, attempt, rank, world_size, node)
            emitter = place.open_emitter()
            inbox = Inbox(emitter, run, attempt) if place.is_main else None
            agent = cls(emitter, start, inbox)
            beside = Background(emitter, place, inbox, heartbeat_s=heartbeat_s)
            beside.begin(agent._activity, agent.barriers, hang_limit_s=hang_limit_s)
            agent._background = beside
        except BaseException:
            if start is not None:
                start.release()
            raise
        return agent

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if exc is None or (isinstance(exc, SystemExit) and not exc.code):
            self.ended("completed")
        else:
            self.ended("error", error=in_words(exc))

    def emit(self, event_type: type[Event], /, **fields: Any) -> None:  # noqa: ANN401 - the event type checks them
        """Write an event of any kind; common fields are filled in."""
        self._activity.progress += 1
        self.emitter.emit(event_type, **fields)

    def phase(self, name: str, *, limit_s: float | None = None) -> None:
        """Say what the trainer does from now on, and how long that may take."""
        name = as_name(name)
        previous = self._activity.enter(name, limit_in_ns(limit_s))
        if previous.name != name:
            self.emit(PhaseChanged, phase=name, previous=previous.name)

    @contextmanager
    def in_phase(self, name: str, *, limit_s: float | None = None) -> Iterator[None]:
        """Be in a phase for the length of a block, then in the one before."""
        previous = self._activity.phase
        self.phase(name, limit_s=limit_s)
        try:
            yield
        finally:
            limit_s = None if previous.limit_ns is None else previous.limit_ns / 1e9
            self.phase(previous.name, limit_s=limit_s)

    def barrier(
        self, name: str, *, limit_s: float | None = None
    ) -> AbstractContextManager[None]:
        """Wrap a wait that may block: `with agent.barrier("x"): dist.barrier()`."""
        self._activity.progress += 1
        return self.barriers.barrier(name, limit_ns=limit_in_ns(limit_s))

    def wait(
        self, name: str, *, limit_s: float | None = None
    ) -> AbstractContextManager[None]:
        """Wrap a wait that every step has; it is told with the next step."""
        return self.barriers.wait(name, limit_ns=limit_in_ns(limit_s))

    def step_done(self, step: int, **fields: Any) -> None:  # noqa: ANN401 - StepDone checks them
        """Tell that `step` optimizer steps are complete; see `events.StepDone`.

        Where `step_ns` is not given, it is the time since the step before; where
        `nonfinite` is not, a loss or gradient norm that is not finite is named.
        """
        emitter, activity = self.emitter, self._activity
        self.begin_at(step)
        fields.setdefault("step_ns", activity.stepped())
        activity.progress += 1
        busy_ns = emitter.busy_ns
        fields["agent_ns"] = busy_ns - self._told_busy_ns
        fields["waits"] = self.barriers.take_pending()
        self._told_busy_ns = busy_ns
        if "nonfinite" not in fields:
            fields["nonfinite"] = first_nonfinite(fields)
        emitter.emit(StepDone, **fields)
        found = fields["nonfinite"]
        if found:
            where = "loss" if found == "loss" else "gradient"
            self.emit(NonfiniteFound, tensor=found, where=where)

    def begin_at(self, step: int) -> None:
        """Tell how many optimizer steps were complete when this start began."""
        # Every event carries it: what is no number would make all of them unreadable.
        number = step if type(step) is int else as_step(step)
        if number is None:
            self.emitter.drop(f"`{as_name(step)}` is no number of steps")
        self.emitter.step = number

    def eval_done(self, **fields: Any) -> None:  # noqa: ANN401 - EvalDone checks them
        """Tell a held-out loss; see `events.EvalDone`."""
        self.emit(EvalDone, **fields)

    def watch_optimizer(
        self,
        optimizer: "Optimizer",
        named_parameters: "Iterable[tuple[str, Tensor]]",
        *,
        every: int = 200,
    ) -> None:
        """Measure norms at the optimizer's own step, every so many; 0: at none."""
        self._optimizers.watch(optimizer, named_parameters, every=every)

    def reset_optimizer(
        self,
        optimizer: "Optimizer | None",
        *,
        reason: str,
        top: int = 0,
        **cause: Any,  # noqa: ANN401 - ResetCause checks them
    ) -> None:
        """Clear an optimizer's state, keep its hyperparameters, tell the norms.

        Args:
            optimizer: None: nothing is done.
            reason: In words.
            top: How many tensors of the state are told one by one, those with the
                largest norms; by the names that `watch_optimizer` was given.
            cause: What else is known: `rounds_missed`, `model_digest`,
                `data_position`, `seed`.
        """
        self._activity.progress += 1
        self._optimizers.reset(optimizer, reason, top, cause)

    def changing_optimizer(
        self,
        optimizer: "Optimizer",
        *,
        reason: str,
        top: int = 0,
        **cause: Any,  # noqa: ANN401 - ResetCause checks them
    ) -> AbstractContextManager[None]:
        """Surround a reload of an optimizer's state; tell norms before and after.

        Arguments are as of `reset_optimizer`.
        """
        self._activity.progress += 1
        return self._optimizers.changing(optimizer, reason, top, cause)

    def accept(self, *kinds: str) -> None:
        """Say which requests this trainer carries out, on all ranks alike.

        Raises:
            ValueError: there is no such kind of request.
        """
        self._obedience.accept(kinds)

    def at_step(self, step: int) -> PendingRequest | None:
        """Return the oldest request that waits, on rank 0; a local read.

        It is not agreed on yet: hand it to `agent.probes.agree.share`, or call
        `agent.probes.agree.agree`, which does both.
        """
        self.begin_at(step)
        return self._obedience.head()

    def claim(self, request: PendingRequest) -> bool:
        """Take a request before anything is done about it; False: it is gone."""
        return self._obedience.claim(request)

    def can_do(self, request: PendingRequest) -> bool:
        """Whether this rank takes requests of that kind."""
        return self._obedience.can_do(request)

    def refuse(self, request: PendingRequest, reason: str) -> None:
        """Tell that a claimed request is not carried out, and why."""
        self._obedience.refuse(request, reason)

    def obeying(self, request: PendingRequest) -> AbstractContextManager[None]:
        """Carry out an agreed request inside; every rank tells that it has begun.

        The outcome is told at the end: done, or failed with the exception,
        which goes on its way.
        """
        self._activity.progress += 1
        return self._obedience.carried_out(request)

    def ended(self, reason: str, *, error: str | None = None) -> None:
        """Write the last event, stop the thread, give the lock back. Once."""
        if self._has_ended or os.getpid() != self._pid:
            return  # a forked child leaves; the run goes on
        self._has_ended = True
        self._optimizers.close()
        if self._background is None:
            return
        last: list[Callable[[], object]] = [
            partial(self._obedience.close, error),
            partial(self.emitter.emit, RunEnded, reason=reason, error=error),
            self.emitter.close,
        ]
        if self._start is not None:
            last.append(self._start.release)
        self._background.end(last)
