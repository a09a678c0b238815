"""Begin a run or another attempt of it: directory, lock, identity, attempt.

Only rank 0 or the server does this, before anything of the run is opened.
Unlike the rest of the agent it is strict: a start that must not happen is
refused here, with the reason, before any training.
"""

import multiprocessing
import os
import re
import sys
import time
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from agent.rundir.atomic import write_atomic, write_new
from agent.rundir.attempts import (
    Attempt,
    RunIdentity,
    encode_document,
    list_attempts,
    read_identity,
    read_newest_attempt,
)
from agent.rundir.errors import ConfigMismatchError, NotARunError, UnwritableError
from agent.rundir.layout import SCHEMA, RunDir
from agent.rundir.lock import Holder, release_lock, take_lock
from agent.rundir.readable import readable

_OWN_NAMES = {"run.lock"}
_SECRET_OPTION = re.compile(r"--([\w-]+-)?(token|password|secret)")
_LEFT_OUT = "…"
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_LAUNCH_VARIABLES = (
    "MASTER_ADDR",
    "MASTER_PORT",
    "TORCHELASTIC_RUN_ID",
    # A node that joins or leaves restarts the others, and counts as no restart.
    "WORLD_SIZE",
    "SLURM_JOB_ID",
    "SLURM_STEP_ID",
)
_RESTART_VARIABLE = "TORCHELASTIC_RESTART_COUNT"
"""Each node counts the failures of its own workers alone; the others of a start
know another number. Source: `LocalElasticAgent._start_workers` of torch 2.13."""
RECORDED_VARIABLES = (
    *_LAUNCH_VARIABLES,
    _RESTART_VARIABLE,
    "LOCAL_WORLD_SIZE",
    "NCCL_DEBUG",
    "NCCL_DEBUG_SUBSYS",
    "NCCL_IB_DISABLE",
    "NCCL_SOCKET_IFNAME",
    "NCCL_TIMEOUT",
    "GLOO_SOCKET_IFNAME",
    "TORCH_NCCL_ASYNC_ERROR_HANDLING",
    "TORCH_FR_BUFFER_SIZE",
    "OMP_NUM_THREADS",
    "CUDA_VISIBLE_DEVICES",
)
"""What an attempt records of its environment."""


@dataclass
class RunStart:
    """A start that holds the lock. Record the attempt once its facts are known."""

    run: RunDir
    identity: RunIdentity
    attempt: int
    is_new: bool
    """Whether this is the run's first attempt."""
    _holder: Holder
    _config: dict[str, Any]

    def record(
        self,
        *,
        resume_command: list[str] | None = None,
        world_size: int | None = None,
        num_nodes: int = 1,
        versions: dict[str, str] | None = None,
        resumed_from: str | None = None,
        resumed_step: int | None = None,
        parent_digest: str | None = None,
    ) -> Attempt:
        """Write `attempts/<attempt>.json`, once.

        Raises:
            OSError: it cannot be written.
        """
        attempt = Attempt(
            attempt=self.attempt,
            started_ns=time.time_ns(),
            process=self._holder.process,
            argv=readable(without_secrets(sys.orig_argv)),
            cwd=readable(str(Path.cwd())),
            resume_command=_startable(resume_command),
            launch_id=self._holder.launch_id,
            world_size=world_size,
            num_nodes=num_nodes,
            batch_job=_batch_job(),
            config=self._config,
            versions=versions or {},
            environment=_recorded_environment(),
            resumed_from=resumed_from,
            resumed_step=resumed_step,
            parent_digest=parent_digest,
        )
        write_new(self.run.attempt_file(self.attempt), encode_document(attempt))
        return attempt

    def release(self) -> None:
        """Give the lock back."""
        release_lock(self.run.lock, self._holder)


def without_secrets(argv: Iterable[str]) -> tuple[str, ...]:
    """Return a command line as it may be kept where others can read it.

    What follows an option named after a token, a password or a secret is left
    out: Flower starts its apps with one.
    """
    kept: list[str] = []
    is_secret = False
    for word in argv:
        option, equals, _ = word.partition("=")
        names_one = _SECRET_OPTION.fullmatch(option) is not None
        if is_secret:
            kept.append(_LEFT_OUT)
        else:
            kept.append(f"{option}={_LEFT_OUT}" if names_one and equals else word)
        is_secret = names_one and not equals
    return tuple(kept)


def begin_run(
    run_dir: Path,
    *,
    kind: str,
    config: dict[str, Any] | None = None,
    launch_id: str | None = None,
    new_attempt: bool = False,
) -> RunStart:
    """Take the directory for one attempt.

    Args:
        run_dir: Made if missing.
        kind: `ddp` or `federated`.
        config: What must not change between attempts, in plain types.
        launch_id: What the ranks of this start have in common; None: taken from
            the environment that torchrun or Slurm sets.
        new_attempt: Go on although the configuration differs.

    Raises:
        LockedError: another trainer runs there, or may do so.
        NotARunError: the directory holds something else.
        ConfigMismatchError: the run was started with another configuration.
        UnwritableError: the directory cannot be made or written.
    """
    run = RunDir(run_dir.absolute())
    try:
        return _begin(run, kind, config or {}, launch_id, new_attempt=new_attempt)
    except OSError as error:
        # A write that fails does not say of which file.
        where = f" (`{error.filename}`)" if error.filename else ""
        raise UnwritableError(
            f"`{run.path}` cannot hold a run: {error.strerror}{where}",
            hint=f"ls -ld {run.path.parent}; df -h {run.path.parent}",
        ) from error


def _begin(
    run: RunDir,
    kind: str,
    config: dict[str, Any],
    launch_id: str | None,
    *,
    new_attempt: bool,
) -> RunStart:
    _make_or_check(run, kind)
    holder = _take_next_attempt(run, launch_id or launch_id_from_environment())
    try:
        plain = _plain(config)
        if not new_attempt:
            _refuse_other_config(run, plain)
        identity = _identity(run, kind)
        run.attempts.mkdir(exist_ok=True)
    except BaseException:
        release_lock(run.lock, holder)
        raise
    return RunStart(run, identity, holder.attempt, holder.attempt == 1, holder, plain)


def launch_id_from_environment() -> str:
    """Return what all ranks of one start know, and no other start has.

    On one host the parent process, which is torchrun or whoever called
    `mp.spawn`, tells two starts with the same address and port apart.
    """
    known = [os.environ.get(name, "") for name in _LAUNCH_VARIABLES]
    if not _is_multi_node():
        known.append(os.environ.get(_RESTART_VARIABLE, ""))
    if _is_launched_here() or _is_spawned_here():
        known.append(str(os.getppid()))
    return readable("/".join(known))


def _is_launched_here() -> bool:
    return "TORCHELASTIC_RUN_ID" in os.environ and not _is_multi_node()


def _is_spawned_here() -> bool:
    is_spawned = multiprocessing.parent_process() is not None
    return is_spawned and os.environ.get("MASTER_ADDR", _LOOPBACK[0]) in _LOOPBACK


def _is_multi_node() -> bool:
    return os.environ.get("LOCAL_WORLD_SIZE") != os.environ.get("WORLD_SIZE")


def _take_next_attempt(run: RunDir, launch_id: str) -> Holder:
    """Lock the run under a number that no attempt had, however many race."""
    while True:
        number = _newest_number(run) + 1
        holder = take_lock(run.lock, number, launch_id=launch_id)
        if _newest_number(run) < number:
            return holder
        release_lock(run.lock, holder)


def _newest_number(run: RunDir) -> int:
    """Return the greatest attempt that left anything, recorded or not."""
    numbers = list_attempts(run)
    if run.telemetry.is_dir():
        names = [path.name for path in run.telemetry.iterdir()]
        numbers += [int(name) for name in names if name.isdecimal()]
    return max(numbers, default=0)


def _make_or_check(run: RunDir, kind: str) -> None:
    run.path.mkdir(parents=True, exist_ok=True)
    if run.identity.exists():
        found = read_identity(run).kind
        if found != kind:
            raise NotARunError(
                f"`{run.path}` is a {found} run, this trainer makes a {kind} run",
                hint=f"opsdash status {run.path}",
            )
        return
    others = sorted(
        path.name
        for path in run.path.iterdir()
        if path.name not in _OWN_NAMES and not path.name.startswith(".")
    )
    if others:
        raise NotARunError(
            f"`{run.path}` is not a run and not empty: it holds `{others[0]}`",
            hint=f"python -m trainer launch ddp {run.path}/run-1 --nproc 2",
        )


def _identity(run: RunDir, kind: str) -> RunIdentity:
    if not run.identity.exists():
        identity = RunIdentity(
            schema=SCHEMA,
            run_id=uuid.uuid4().hex,
            kind=kind,
            created_ns=time.time_ns(),
        )
        write_atomic(run.identity, encode_document(identity))
    return read_identity(run)


def _refuse_other_config(run: RunDir, config: dict[str, Any]) -> None:
    previous = read_newest_attempt(run)
    if previous is None or not previous.config:
        return
    # A setting that one of the two does not know was added or dropped by another
    # version of the trainer: nobody chose it differently.
    for name in sorted(previous.config.keys() & config.keys()):
        old, new = previous.config[name], config[name]
        if old != new:
            raise ConfigMismatchError(
                f"`{run.path}` was started with `{name}` = `{old}`, "
                f"this start has `{new}`",
                hint="the same command with --new-attempt goes on with the new value",
            )


def _plain(config: dict[str, Any]) -> dict[str, Any]:
    """Return the configuration as it will be read back from JSON."""
    data = msgspec.json.encode(readable(config))
    plain: dict[str, Any] = msgspec.json.decode(data)
    return plain


def _startable(command: list[str] | None) -> tuple[str, ...] | None:
    """Return a command that starts what it did here; None: JSON cannot hold it."""
    if not command or readable(command) != command:
        return None
    return tuple(command)


def _recorded_environment() -> dict[str, str]:
    found = {k: os.environ[k] for k in RECORDED_VARIABLES if k in os.environ}
    return readable(found)


def _batch_job() -> str | None:
    for system, variable in (
        ("slurm", "SLURM_JOB_ID"),
        ("pbs", "PBS_JOBID"),
        ("lsf", "LSB_JOBID"),
        ("sge", "JOB_ID"),
    ):
        if variable in os.environ:
            return readable(f"{system} {os.environ[variable]}")
    return None
