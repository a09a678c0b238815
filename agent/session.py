"""The one object that a trainer embeds: `with Agent.attach(run_dir) as agent:`.

Attaching may be refused, because two trainers must not share a directory.
After that nothing here raises into training: what cannot be done is counted
and told. The agent issues no collective; a second thread beats once a second
so that a stuck trainer is seen to be stuck.
"""

import os
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from agent.emitter import Emitter
from agent.probes.barrier import BarrierProbe
from agent.probes.host import HostProbe
from agent.rundir.attempts import read_identity
from agent.rundir.errors import LockedError, RunDirError
from agent.rundir.events import (
    EvalDone,
    Event,
    Heartbeat,
    HostStats,
    NonfiniteFound,
    PhaseChanged,
    RunEnded,
    RunStarted,
    StepDone,
)
from agent.rundir.layout import SCHEMA, RunDir, is_safe_node, rank_stem
from agent.rundir.lock import read_lock
from agent.rundir.process import Liveness, this_process
from agent.start import RunStart, begin_run, launch_id_from_environment

if TYPE_CHECKING:
    from torch import Tensor
    from torch.optim import Optimizer

HEARTBEAT_S = 1.0
_HOST_STATS_EVERY = 5
"""Heartbeats between two samples of the host."""
_ATTEMPT_WAIT_S = 60.0
_ATTEMPT_POLL_S = 0.05


@dataclass(frozen=True)
class _Phase:
    name: str
    since_ns: int
    limit_ns: int | None


class Agent:
    """Telemetry of one process. Made by `attach`, ended by its `with` block."""

    def __init__(self, emitter: Emitter, run: RunDir, start: RunStart | None) -> None:
        """Wrap an open emitter; `attach` is the way to get an agent."""
        self.emitter = emitter
        self.barriers = BarrierProbe(emitter)
        self._run = run
        self._start = start
        self._phase = _Phase("starting", time.monotonic_ns(), None)
        self._progress = 0
        self._has_ended = False
        self._told_busy_ns = 0
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

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

        Raises:
            LockedError: another trainer runs on this directory.
            RunDirError: the directory is something else, or another
                configuration's run.
        """
        if os.environ.get("OPSDASH_AGENT", "").lower() == "off":
            return cls(
                Emitter(None, node="off", rank=None), RunDir(Path(run_dir)), None
            )
        run = RunDir(Path(run_dir).absolute())
        rank = int(os.environ.get("RANK", "0")) if rank is None else rank
        if world_size is None:
            world_size = int(os.environ.get("WORLD_SIZE", "1"))
        start = None
        if attempt is None and rank == 0:
            start = begin_run(run.path, kind=kind, config=config)
            start.record(resume_command=resume_command, world_size=world_size)
            attempt = start.attempt
        elif attempt is None:
            attempt = _wait_for_attempt(run)
        emitter = _open_emitter(run, attempt, node, rank)
        agent = cls(emitter, run, start)
        agent._begin(kind, attempt, world_size, heartbeat_s)
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
            self.ended("error", error=f"{type(exc).__name__}: {exc}")

    def emit(self, event_type: type[Event], /, **fields: Any) -> None:  # noqa: ANN401 - the event type checks them
        """Write an event of any kind; common fields are filled in."""
        self._progress += 1
        self.emitter.emit(event_type, **fields)

    def phase(self, name: str, *, limit_s: float | None = None) -> None:
        """Say what the trainer does from now on, and how long that may take."""
        previous = self._phase
        limit_ns = None if limit_s is None else int(limit_s * 1e9)
        self._phase = _Phase(name, time.monotonic_ns(), limit_ns)
        if previous.name != name:
            self.emit(PhaseChanged, phase=name, previous=previous.name)

    @contextmanager
    def in_phase(self, name: str, *, limit_s: float | None = None) -> Iterator[None]:
        """Be in a phase for the length of a block, then in the one before."""
        previous = self._phase
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
        self._progress += 1
        limit_ns = None if limit_s is None else int(limit_s * 1e9)
        return self.barriers.barrier(name, limit_ns=limit_ns)

    def wait(
        self, name: str, *, limit_s: float | None = None
    ) -> AbstractContextManager[None]:
        """Wrap a wait that every step has; it is told with the next step."""
        limit_ns = None if limit_s is None else int(limit_s * 1e9)
        return self.barriers.wait(name, limit_ns=limit_ns)

    def step_done(self, step: int, **fields: Any) -> None:  # noqa: ANN401 - StepDone checks them
        """Tell that `step` optimizer steps are complete; see `events.StepDone`."""
        self.emitter.step = step
        busy_ns = self.emitter.busy_ns
        self.emit(
            StepDone,
            step=step,
            waits=self.barriers.take_pending(),
            agent_ns=busy_ns - self._told_busy_ns,
            **fields,
        )
        self._told_busy_ns = busy_ns
        if fields.get("nonfinite"):
            self.emit(NonfiniteFound, tensor=fields["nonfinite"], where="gradient")

    def begin_at(self, step: int) -> None:
        """Tell how many optimizer steps were complete when this start began."""
        self.emitter.step = step

    def eval_done(self, **fields: Any) -> None:  # noqa: ANN401 - EvalDone checks them
        """Tell a held-out loss; see `events.EvalDone`."""
        self.emit(EvalDone, **fields)

    def watch_optimizer(
        self,
        optimizer: "Optimizer",
        named_parameters: "Iterable[tuple[str, Tensor]]",
        *,
        every: int = 50,
    ) -> None:
        """Measure norms at the optimizer's own step, every so many steps."""
        from agent.probes.optimizer import OptimizerProbe  # noqa: PLC0415 - torch is not needed to attach

        OptimizerProbe(self.emitter, optimizer, named_parameters, every=every)

    def ended(self, reason: str, *, error: str | None = None) -> None:
        """Write the last event, stop the thread, give the lock back. Once."""
        if self._has_ended:
            return
        self._has_ended = True
        self._stopping.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout=5)
        self.emitter.emit(RunEnded, reason=reason, error=error)
        self.emitter.close()
        if self._start is not None:
            self._start.release()

    def _begin(
        self, kind: str, attempt: int, world_size: int, heartbeat_s: float
    ) -> None:
        process = this_process()
        self.emit(
            RunStarted,
            schema=SCHEMA,
            run_id=_run_id(self._run),
            attempt=attempt,
            run_kind=kind,
            host=process.host,
            boot_id=process.boot_id,
            pid=process.pid,
            pid_start=process.pid_start,
            world_size=world_size if kind == "ddp" else None,
        )
        self._thread = threading.Thread(
            target=self._beat, args=(heartbeat_s,), name="opsdash-agent", daemon=True
        )
        self._thread.start()

    def _beat(self, heartbeat_s: float) -> None:
        host = HostProbe(self._run.path)
        for count in range(sys.maxsize):
            try:
                self.emitter.reopen_if_removed()
                self._emit_heartbeat()
                if count % _HOST_STATS_EVERY == 1:
                    self._emit_host_stats(host)
            except Exception as error:  # noqa: BLE001 - a beat must never end training
                self.emitter.problem = f"{type(error).__name__}: {error}"
            if self._stopping.wait(heartbeat_s):
                return

    def _emit_heartbeat(self) -> None:
        phase, waiting = self._phase, self.barriers.current
        now = time.monotonic_ns()
        self.emitter.emit(
            Heartbeat,
            phase=phase.name,
            phase_age_ns=now - phase.since_ns,
            limit_ns=phase.limit_ns,
            progress=self._progress,
            waiting_at=waiting.name if waiting else None,
            waiting_index=waiting.index if waiting else None,
            waiting_age_ns=now - waiting.since_mono_ns if waiting else None,
        )

    def _emit_host_stats(self, host: HostProbe) -> None:
        self.emitter.emit(
            HostStats,
            agent_ns=self.emitter.busy_ns,
            agent_bytes=self.emitter.num_bytes,
            **host.sample(),
        )


def _open_emitter(run: RunDir, attempt: int, node: str | None, rank: int) -> Emitter:
    if node is None:
        path = run.telemetry_file(attempt, rank_stem(rank))
        return Emitter(path, node=f"rank-{rank}", rank=rank)
    if not is_safe_node(node):
        raise RunDirError(
            f"`{node!a}` cannot name a client: use letters, digits, `.`, `_` and `-`",
            hint="--key client-1",
        )
    return Emitter(run.telemetry_file(attempt, node), node=node, rank=None)


def _run_id(run: RunDir) -> str:
    try:
        return read_identity(run).run_id
    except RunDirError:
        return ""


def _wait_for_attempt(run: RunDir) -> int:
    """Find the attempt that rank 0 of this very start has begun.

    Ranks of one start share a launch id; a lock that carries it and whose
    holder is not known to be gone is ours.

    Raises:
        LockedError: none appeared; rank 0 was refused or never came.
    """
    launch_id = launch_id_from_environment()
    deadline = time.monotonic() + _ATTEMPT_WAIT_S
    while time.monotonic() < deadline:
        view = read_lock(run.lock)
        if (
            view is not None
            and view.holder.launch_id == launch_id
            and view.liveness is not Liveness.DEAD
        ):
            return view.holder.attempt
        time.sleep(_ATTEMPT_POLL_S)
    raise LockedError(
        f"rank 0 of this start did not begin a run in `{run.path}` within "
        f"{_ATTEMPT_WAIT_S:.0f} s",
        hint=f"opsdash status {run.path}",
    )
